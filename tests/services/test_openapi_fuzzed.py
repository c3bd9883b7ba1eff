"""The service is what its OpenAPI document says: every operation called with generated data, by schemathesis, over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from automl_prune.latency.conditions import DeviceDescription
from automl_prune.loop.job import HIGHEST_PRIORITY, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.keys import ApiKeys, KeyLimits, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from services.api.app import create_app
from services.settings import Settings

SLOW_ON_POSTGRESQL = True
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "429", "412", "413"]
"""What may come back to valid data; 412, as the entity tags of a search cannot be guessed, 413, as all lists may be long but
not all at once."""


@pytest.fixture
def ended(store: SqlStore, fill: Callable[[Store], str]) -> Iterator[str]:
    """A search that has ended; whatever else is ordered ends soon, so that its events do, too."""
    search, over = fill(store), threading.Event()
    store.set_state(search, 1, SearchState.SUCCEEDED, result={"metrics": {}})

    def end_all() -> None:
        while not over.wait(0.05):
            while (job := store.claim(lease_seconds=60)) is not None:
                store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, result={"metrics": {}})

    thread = threading.Thread(target=end_all)
    thread.start()
    yield search
    over.set()
    thread.join()


@pytest.fixture
def served(store: SqlStore, settings: Settings, serve: Callable[[FastAPI], str]) -> str:
    """The address of an app that finds nothing wrong with orders that are as documented."""
    SqlDevices(store.database).register("default", "pi4", DeviceDescription({"processor": "Cortex-A72"}, {"torch": "2.6"}))
    return serve(create_app(store, settings, lambda spec, tenant: {}))


def config(search: str) -> dict[str, Any]:
    """Where ids come from, which are not guessed; and what a schema cannot say about what is refused."""
    unsaid = {"checks": {"positive_data_acceptance": {"expected-statuses": [*ACCEPTED, "422"]}}}
    return {
        "request-timeout": 20,
        "generation": {"deterministic": True, "database": "none", "allow-x00": False},
        "parameters": {"path.search_id": search, "path.number": 0, "path.name": "model.safetensors", "path.device": "pi4"},
        "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}},
        "operations": [
            # What an address of a webhook must be besides a URL (https, a host, a public one) is its guard's to say,
            {"include-path": "/v1/webhooks", "include-method": "POST"} | unsaid,
            # and a page token is any text but for the list that gave it out.
            {"include-path": ["/v1/searches", "/v1/searches/{search_id}/trials"], "include-method": "GET"} | unsaid,
        ],
    }


def toml(value: Any) -> str:
    """A value in TOML, which is JSON but for its objects."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def run(folder: Path, address: str, key: str, settings: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    file = folder / "schemathesis.toml"
    file.write_text("\n".join(f"{name} = {toml(value)}" for name, value in settings.items()))
    where = ["--config-file", str(file), "run", f"{address}/openapi.json", "--header", f"Authorization: Bearer {key}"]
    start = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    return subprocess.run(
        [*start, *where, "--checks", "all", "--continue-on-failure", "--no-color", *options],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        ("examples,fuzzing,stateful", 3),
        # Coverage tries every bound of every field, which are a thousand requests.
        pytest.param(
            "examples,coverage,fuzzing,stateful", 60, marks=[pytest.mark.slow, pytest.mark.timeout(1300)], id="thorough"
        ),
    ],
)
def test_every_operation_is_as_documented(
    store: SqlStore, served: str, ended: str, tmp_path: Path, phases: str, examples: int
) -> None:
    _, key = ApiKeys(store.database).create("test", scopes=tuple(Scope), limits=KeyLimits(priority=HIGHEST_PRIORITY))
    done = run(tmp_path, served, key, config(ended), "--phases", phases, "--max-examples", str(examples))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
    document = httpx.get(f"{served}/openapi.json", headers={"X-API-Key": key}, timeout=60, trust_env=False).json()
    assert f"Tested: {sum(map(len, document['paths'].values()))}" in done.stdout


def test_a_method_that_is_not_documented_is_refused_with_those_that_are(app: FastAPI, client: TestClient) -> None:
    for path, operations in app.openapi()["paths"].items():
        documented = {method.upper() for method in operations}
        at = path.replace("{number}", "0").replace("{", "").replace("}", "")
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"} - documented:
            refused = client.request(method, at)
            assert refused.status_code == 405, (method, path)
            assert set(refused.headers["allow"].split(", ")) - {"HEAD"} == documented, (method, path)
