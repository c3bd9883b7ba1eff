"""Clients read what a folder is, and never where it is."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.job import SearchState
from automl_prune.storage.sql import SqlStore
from services import driver
from services.api.app import create_app
from services.driver import drive
from services.folders import without_places
from services.settings import Settings, load_settings
from services.wiring import reviewer

ANYWHERE = re.compile(r"(?<![\w)./:])/(?:tmp|home|root|usr|var|opt|work|etc)/")


def order(**changes: Any) -> dict[str, Any]:
    plain = {
        "search_space": {"name": "digits_resnet"},
        "dataset": {"name": "digits", "select_size": 300},
        "strategy": {"name": "random"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
        "trials": {"max": 4},
        "execution": "inline",
    }
    return plain | changes


def dataset(name: str, **more: Any) -> dict[str, Any]:
    return order(dataset={"name": name, **more}, search_space={"name": "resnet20"})


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "no data root": (
        dataset("fashion_mnist"),
        r"No complete Fashion-MNIST in the data root: expected .* set dataset\.download",
    ),
    "no CIFAR-10": (
        dataset("cifar10", root="deep/folder"),
        r"No complete CIFAR-10 in \(data root\)/deep/folder, which does",
    ),
    "a broken CIFAR-10": (
        dataset("cifar10", root="broken"),
        r"\(data root\)/broken/.*data_batch_1\.bin is corrupt: .* Replace",
    ),
    "no pictures": (
        dataset("image_folder", root="none"),
        r"image_folder finds no pictures in \(data root\)/none: .* dataset\.root",
    ),
    "an empty class": (dataset("image_folder", root="empty"), r"image_folder finds no pictures in \(data root\)/empty/a: "),
    "a broken picture": (dataset("image_folder", root="pictures"), r"\(data root\)/pictures/a/1\.png is corrupt"),
    "a file for a folder": (dataset("image_folder", root="file"), r"image_folder finds no pictures in \(data root\)/file"),
    "a way out": (dataset("cifar10", root="../.."), "not below the server's data root"),
    "a link that leads out": (dataset("cifar10", root="out"), "not below the server's data root"),
    "a name that is too long": (dataset("cifar10", root="x" * 999), "data root"),
    "no weights": (order(weights="gone.pt"), "No weight file 'gone.pt' below the weights root"),
    "weights elsewhere": (order(weights="../../etc/passwd"), "does not lie below the weights root"),
    "weights in a circle": (order(weights="circle.pt"), "weight"),
    "broken weights": (order(weights="broken.pt"), r"broken\.pt cannot be read"),
    "a broken PruningNet": (
        order(strategy={"name": "metapruning"}, recipe={"hypernetwork": {"file": "broken.safetensors"}}),
        "broken.safetensors",
    ),
    "no PruningNet": (order(strategy={"name": "metapruning"}, recipe={"hypernetwork": {"file": "gone.st"}}), "gone.st"),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    data, weights = home / "data", home / "weights"
    for folder in ("broken/cifar-10-batches-bin", "empty/a", "pictures/a"):
        (data / folder).mkdir(parents=True)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (data / "broken" / "cifar-10-batches-bin" / name).write_bytes(b"x" * 100)
    (data / "pictures" / "a" / "1.png").write_bytes(b"no picture")
    (data / "file").write_text("")
    (data / "out").symlink_to("/")
    weights.mkdir()
    (weights / "circle.pt").symlink_to("circle.pt")
    for name in ("broken.pt", "broken.safetensors"):
        (weights / name).write_bytes(b"broken")
    return load_settings(home=home)


@pytest.fixture(scope="module", params=["new_sqlite", pytest.param("emptied_postgres", marks=pytest.mark.slow)])
def opened(request: pytest.FixtureRequest) -> Iterator[SqlStore]:
    store = SqlStore(request.getfixturevalue(request.param)())
    yield store
    store.close()


@pytest.fixture(scope="module")
def asked(settings: Settings, opened: SqlStore) -> Iterator[TestClient]:
    with TestClient(create_app(opened, settings, reviewer(settings)), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("fault", FAULTY)
def test_an_order_is_refused_without_saying_where_things_are(asked: TestClient, settings: Settings, fault: str) -> None:
    body, said = FAULTY[fault]
    refused = asked.post("/v1/searches", json=body)
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    for text in (problem["detail"], *(error["detail"] for error in problem["errors"])):
        assert re.search(said, text), text
        assert str(settings.home) not in text
        assert not ANYWHERE.search(text), text


@pytest.mark.parametrize("fault", ["no CIFAR-10", "a broken picture", "no weights"])
def test_a_search_fails_without_saying_where_things_are(
    asked: TestClient, settings: Settings, opened: SqlStore, fault: str
) -> None:
    body, said = FAULTY[fault]
    search = opened.add_search(body, name=None, labels={}).id
    job = opened.claim(lease_seconds=60)
    assert job is not None
    assert drive(job, opened, settings).state is SearchState.FAILED
    shown = asked.get(f"/v1/searches/{search}")
    assert re.search(said, shown.json()["state_reason"])
    assert str(settings.home) not in shown.text


LOG = """2026-01-01 driver the search failed
Traceback (most recent call last):
  File "{program}/automl_prune/loop/run.py", line 7, in run
    torch.load("{data}/flowers/ä.pt")
  File "{prefix}/lib/python3.11/site-packages/torch/serialization.py", line 1, in load
psycopg.OperationalError: connection to server at "db.internal" (10.1.2.3), port 5432 failed: Connection refused
\tcould not translate host name "replica.internal" to address; db.internal:5432, not xdb.internals
"""


def test_a_log_is_shown_without_saying_where_things_are(opened: SqlStore, tmp_path: Path) -> None:
    """Wherever a piece of it begins or ends."""
    url = "postgresql://me@db.internal:5432/searches"
    settings = load_settings(home=tmp_path / "the home", database_url=url)
    search = opened.add_search({}, name=None, labels={}).id
    folder = settings.artifacts_root / search
    folder.mkdir(parents=True)
    written = LOG.format(program=Path(driver.__file__).parents[1], data=settings.data_root, prefix=sys.prefix)
    (folder / "search.log").write_text(written, encoding="utf-8")
    with TestClient(create_app(opened, settings, reviewer(settings)), base_url="http://127.0.0.1") as client:
        whole = client.get(f"/v1/searches/{search}/logs")
        assert not ANYWHERE.search(whole.text), whole.text
        for secret in (str(tmp_path), sys.prefix, '"db.internal', "10.1.2.3", " db.internal", "replica.internal"):
            assert secret not in whole.text
        for kept in ("/automl_prune/loop/run.py", "(data root)", "/flowers/ä.pt", "port 5432 failed", "xdb.internals"):
            assert kept in whole.text
        assert int(whole.headers["log-size"]) == len(whole.content) == len(written.encode())
        for offset in range(0, len(written.encode()), 5):
            piece = client.get(f"/v1/searches/{search}/logs?offset={offset}&limit=40")
            assert int(piece.headers["log-offset"]) == offset
            assert piece.content == whole.content[offset : offset + len(piece.content)] != b""


def test_folders_of_similar_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (tmp_path / "disk").mkdir()
    data.symlink_to(tmp_path / "disk")
    settings = load_settings(home=tmp_path / "h", data_root=data)
    say: Callable[[str], str] = lambda text: without_places(text, settings)  # noqa: E731
    assert say(f"Nothing in {data}.") == "Nothing in the data root."
    assert say(f"{data}/a b: {tmp_path}/disk/c, {tmp_path}/h/cache.") == "(data root)/a b: (data root)/c, the cache folder."
    assert say(f"{data}2 {data}.old x{data}") == f"{data}2 {data}.old x{data}"
    assert say("https://host/data") == "https://host/data"
