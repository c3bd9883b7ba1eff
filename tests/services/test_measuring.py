"""The process that an agent measures in: it hangs, crashes, or is left alone, and the agent goes on."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.registered import MeasurementState
from automl_prune.latency.work import NetworkWork
from automl_prune.storage.sql.devices import SqlDevices
from services.measuring import Measuring
from services.settings import Settings, load_settings
from tests.services.agents import BLOCKS, known, results
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True
AWKWARD = """
import os, signal, subprocess, sys, time
from pathlib import Path
from automl_prune.networks import NETWORKS, NetworkDefinition

def hangs(classes):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(__file__).with_name("pids").write_text(f"{os.getpid()} {helper.pid}")
    print("about to hang", flush=True)
    while True:
        time.sleep(1)

def crashes(classes):
    os.kill(os.getpid(), signal.SIGKILL)

def raises(classes):
    raise KeyError("no such thing")

for build in (hangs, crashes, raises):
    NETWORKS.add(f"awkward_{build.__name__}", NetworkDefinition(
        name=f"awkward_{build.__name__}", build=build, input_shape=(1, 12, 12), num_classes=10, mean=(0.5,), std=(0.3,)))
"""


@pytest.fixture
def awkward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "awkward_to_measure.py").write_text(AWKWARD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    return load_settings(home=tmp_path, plugins="awkward_to_measure", measurement_seconds=15)


@pytest.fixture
def measuring(awkward: Settings) -> Iterator[Measuring]:
    with Measuring(awkward) as opened:
        yield opened


def network(name: str) -> NetworkWork:
    return NetworkWork(f"awkward_{name}", 10, "x")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_an_agent_outlives_what_hangs_or_crashes_and_measures_the_next(
    app: FastAPI,
    serve: Callable[[FastAPI], str],
    devices: SqlDevices,
    start: Callable[..., None],
    measuring: Measuring,
    tmp_path: Path,
) -> None:
    start(serve(app), measuring.time)
    until(known(devices))
    works = [*map(network, ("hangs", "crashes", "raises")), BLOCKS[0]]
    *failed, timed = results(devices, devices.add("default", "pi", Conditions(), works, wanted_seconds=400), seconds=400)
    assert {(one.state, one.attempt) for one in failed} == {(MeasurementState.FAILED, 1)}
    assert [one.error for one in failed] == [
        "It took longer than 15 s and was stopped; the agent's AUTOML_PRUNE_MEASUREMENT_SECONDS allows more.",
        "The process that measures was ended by SIGKILL, as the system does when memory runs out.",
        "torch failed: KeyError: 'no such thing'.",
    ]
    assert timed.state is MeasurementState.DONE
    process = measuring._child
    assert process is not None
    measuring.close()
    left = [process.pid, *map(int, (tmp_path / "pids").read_text().split())]
    until(lambda: not any(map(is_running, left)), 60)
