"""No secret leaves the processes that need it: not in logs, answers, files, the database, command lines, or Ray."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import make_url, select

from automl_prune.storage.keys import ApiKeys, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import Base
from services.ray_auth import TOKEN_FILE

PASSWORD = "marked-password-7f3a91"
RAY_TOKEN = "5ec7e7" * 10 + "beef"
ORDER: dict[str, Any] = {
    "name": "watched",
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "fit_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 1},
    "base_training": {"epochs": 1},
    "trials": {"max": 2, "parallel": 1},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
}
ASK_RAY = """
import ray
from ray.util import state
ray.init("auto", log_to_driver=False)
kinds = ("jobs", "actors", "workers", "nodes", "tasks", "objects", "runtime_envs", "placement_groups")
for kind in kinds:
    found = getattr(state, f"list_{kind}")(detail=True, raise_on_missing_output=False)
    print(kind, len(found), found)
print(ray.get_runtime_context().runtime_env, ray.nodes(), ray.cluster_resources())
"""


@dataclass
class Service:
    """A running ``serve``, with everything it was told in secret."""

    home: Path
    log: Path
    address: str
    process: subprocess.Popen[bytes]
    store: SqlStore
    markers: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.markers['API key']}"}

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.address + path, headers=self.headers, timeout=60, trust_env=False, **options)

    def ended(self, search: str) -> dict[str, Any]:
        limit = time.monotonic() + 200
        while (found := self.call("GET", f"/v1/searches/{search}").json())["finished_at"] is None:
            assert time.monotonic() < limit, found
            assert self.process.poll() is None
            time.sleep(0.2)
        return dict(found)


@pytest.fixture
def service(postgres_url: str, tmp_path: Path) -> Iterator[Service]:
    # The server of the tests lets everybody in who comes by its socket, whatever the password.
    url = make_url(postgres_url).set(password=PASSWORD).render_as_string(hide_password=False)
    store = SqlStore(url)
    _, key = ApiKeys(store.database).create("watched", scopes=tuple(Scope))
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    (home / TOKEN_FILE).write_text(RAY_TOKEN)
    (home / TOKEN_FILE).chmod(0o600)
    told = {"HOME": str(home), "DATABASE_URL": url, "KEY": key, "WORKERS": "1", "LOG_FORMAT": "json"}
    environment = {**os.environ, **{f"AUTOML_PRUNE_{name}": value for name, value in told.items()}}
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "services.cli", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 240
        while not (said := re.search(r"listening on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)
        markers = {"database password": PASSWORD, "Ray token": RAY_TOKEN, "API key": key}
        yield Service(home, log, said[1], process, store, markers)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        store.close()


def everything(service: Service, search: str) -> Iterator[tuple[str, str]]:
    """Whatever anybody could look at, and where it is."""
    document = service.call("GET", "/openapi.json").json()
    places = {"search_id": search, "number": "0", "name": "architecture.json"}
    elsewhere = dict.fromkeys(re.findall(r"{(\w+)}", " ".join(document["paths"])), "local")
    for path, operations in document["paths"].items():
        if "get" in operations:
            answer = service.call("GET", path.format(**elsewhere | places))
            yield path, f"{answer.headers}{answer.text}"
    wrong = httpx.get(
        f"{service.address}/v1/searches", headers={"X-API-Key": service.markers["API key"] + "0"}, trust_env=False
    )
    yield "a key that is nearly right", f"{wrong.status_code}{wrong.text}"
    yield "an order that is refused", service.call("POST", "/v1/searches", json=ORDER | {"weights": "gone.pt"}).text
    for file in service.home.rglob("*"):
        if file.is_file() and file.name != TOKEN_FILE:
            yield str(file), file.read_bytes().decode(errors="replace")
    with service.store.database.read() as session:
        for table in Base.metadata.sorted_tables:
            yield f"table {table.name}", repr(session.execute(select(table)).all())
    for process in (psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a zombie is none, either
            yield f"command line of {process.pid}", " ".join(process.cmdline())
    yield "the log", service.log.read_text()


def leaks(service: Service, found: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(place, name) for place, text in found for name, marker in service.markers.items() if marker in text]


def searched(service: Service, **changes: Any) -> str:
    """A search that has succeeded, after one that failed with a traceback in its log."""
    failing = service.store.add_search(ORDER | {"weights": "gone.pt"}, name=None, labels={}).id
    search = str(service.call("POST", "/v1/searches", json=ORDER | changes).raise_for_status().json()["id"])
    assert service.ended(failing)["state"] == "failed"
    ended = service.ended(search)
    assert ended["state"] == "succeeded", ended["state_reason"]
    return search


@pytest.mark.slow
def test_a_search_and_all_about_it_hold_no_secret(service: Service) -> None:
    search = searched(service, execution="inline")
    assert "Traceback" in service.log.read_text() + "".join(f.read_text() for f in service.home.rglob("search.log"))
    found = dict(everything(service, search))
    assert {"/version", "/metrics", "/v1/searches/{search_id}/logs", "/v1/searches/{search_id}/best"} <= found.keys()
    assert json.loads((service.home / "artifacts" / search / "architecture.json").read_text())
    assert leaks(service, iter(found.items())) == []


@pytest.mark.slow
def test_ray_is_told_no_secret(service: Service) -> None:
    search = searched(service, execution="actors")
    assert leaks(service, everything(service, search)) == []
    parts = [part for p in psutil.Process(service.process.pid).children(recursive=True) if (part := of_ray(p))]
    assert {"raylet", "gcs_server"} <= {part["name"] for part in parts}
    words = [word for part in parts for word in part["cmdline"]]
    session = next(Path(word.partition("=")[2]) for word in words if word.startswith("--session-dir="))
    inside = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(service.home / TOKEN_FILE)}
    gcs = next(word.partition("=")[2] for word in words if word.startswith("--gcs-address="))
    asked = subprocess.run(
        [sys.executable, "-c", ASK_RAY], env=inside | {"RAY_ADDRESS": gcs}, capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    assert re.search(r"actors [1-9]", asked.stdout), asked.stdout[:2000]
    known: list[tuple[str, str]] = [("Ray's state", asked.stdout)]
    known += [(f"environment of {part['name']}", str(part["environ"])) for part in parts]
    known += [(str(f), f.read_text(errors="replace")) for f in session.rglob("*") if f.is_file() and "logs" in f.parts]
    assert leaks(service, iter(known)) == []


def of_ray(process: psutil.Process) -> dict[str, Any] | None:
    """Name, command line and environment of a process of Ray's that lives; its workers come and go."""
    try:
        if process.name() in ("raylet", "gcs_server") or process.name().startswith("ray::"):
            return {"name": process.name(), "cmdline": process.cmdline(), "environ": process.environ()}
    except psutil.NoSuchProcess:
        pass
    return None


@pytest.mark.parametrize("command", [["keys", "list"], ["serve", "--port", "0", "--host", "0.0.0.0"], ["db", "current"]])
@pytest.mark.slow
def test_a_database_that_is_away_is_reported_without_its_password(tmp_path: Path, command: list[str]) -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:1/searches"
    told = {**os.environ, "AUTOML_PRUNE_HOME": str(tmp_path), "AUTOML_PRUNE_DATABASE_URL": url}
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", *command], env=told, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert PASSWORD not in ended.stdout + ended.stderr
