"""A server, a launcher and two agents as real processes; one agent is killed while it measures, and started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from automl_prune.loop.job import SearchState
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.tables import BatchRow, MeasurementRow
from services.settings import Settings, environment, load_settings
from services.wiring import open_store
from tests.services.waiting import until

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 32},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "latency_ms", "max": 1000, "device": name} for name in ("pi4", "nano")],
    "latency": {"runtime": "torch", "threads": 1},
    "recipe": {"inherit": "l1", "recalibrate_batches": 1, "fine_tune": {"steps": 0}, "reconstruct": "none"},
    "base_training": {"epochs": 1},
    "trials": {"max": 2},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, workers=1, device_lease_seconds=3, device_silent_seconds=15)


@pytest.fixture
def store(settings: Settings) -> Iterator[SqlStore]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Starts commands; those that still run are ended as people end them."""
    running: list[subprocess.Popen[str]] = []

    def command(*arguments: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "services.cli", *arguments]
        running.append(subprocess.Popen(line, env=os.environ | environment(settings), stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield command
    for process in reversed(running):
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def at_work(store: SqlStore, device: str) -> int:
    """Measurements that the device's agent has taken and not brought back."""
    query = select(func.count()).select_from(MeasurementRow).join(BatchRow, BatchRow.id == MeasurementRow.batch_id)
    with store.database.read() as session:
        return session.scalar(query.where(BatchRow.device == device, MeasurementRow.state == "running")) or 0


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_search_budgeted_on_two_devices_outlives_one_of_their_agents(store: SqlStore, start: Start) -> None:
    server = start("serve", "--port", "0")
    assert server.stdout is not None
    address = server.stdout.readline().split()[-1]
    devices = SqlDevices(store.database)
    agents = {name: start("agent", "--name", name, "--server", address) for name in ("pi4", "nano")}
    until(lambda: len(devices.devices("default")) == 2, 120)
    ordered = httpx.post(f"{address}/v1/searches", json=ORDER, timeout=200, trust_env=False)
    assert ordered.status_code == 201, ordered.text
    search_id = ordered.json()["id"]

    until(lambda: devices.device("default", "pi4").measured > 2 and at_work(store, "pi4") > 0, 200)
    agents["pi4"].send_signal(signal.SIGKILL)
    agents["pi4"].wait(30)
    before = devices.device("default", "pi4").measured
    assert at_work(store, "pi4") > 0
    assert not store.get_search(search_id).state.is_terminal
    start("agent", "--name", "pi4", "--server", address)

    until(lambda: store.get_search(search_id).state.is_terminal, 400, lambda: store.get_search(search_id).state_reason)
    ended = store.get_search(search_id)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert ended.attempt == 1
    assert ended.result is not None
    assert set(ended.result["metrics"]["latency_ms"]) == {"pi4", "nano"}
    assert all(0 < ms < 1000 for ms in ended.result["metrics"]["latency_ms"].values())
    found = {device.name: device for device in devices.devices("default")}
    assert found["pi4"].measured > before
    assert {device.failed for device in found.values()} == {0}
    with store.database.read() as session:
        attempts = session.scalars(select(MeasurementRow.attempt)).all()
    assert max(attempts) == 2, "what the killed agent was at was handed out again"
    shown = httpx.get(f"{address}/v1/devices", trust_env=False).json()["items"]
    assert [(d["name"], d["measured"]) for d in shown[1:]] == [
        ("nano", found["nano"].measured),
        ("pi4", found["pi4"].measured),
    ]
