"""Searches budgeted on the driver's own machine: what hangs or crashes there is timed in a process apart, and named."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import LOCAL, OnTiming
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from services.devices import IsolatedMachine
from services.driver import Requests, drive
from services.settings import Settings, environment, load_settings
from services.wiring import roots
from tests.latency.clockwork import Clockwork
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 16},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "latency_ms", "max": 1000}, {"metric": "macs", "max_ratio": 0.7}],
    "recipe": {"inherit": "l1", "recalibrate_batches": 1, "fine_tune": {"steps": 0}, "reconstruct": "none"},
    "base_training": {"epochs": 1},
    "trials": {"max": 4},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}


@pytest.fixture
def settings(tmp_path: Path, cache_of_networks: Path) -> Settings:
    return load_settings(home=tmp_path, cache_dir=cache_of_networks)


@pytest.fixture
def lock(settings: Settings) -> Path:
    """What processes take turns by."""
    return settings.cache_dir / "latency" / "local.lock"


@pytest.fixture
def claimed(store: SqlStore) -> SearchJob:
    store.add_search(SearchSpec.parse(ORDER).model_dump(mode="json"), name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    return job


class ByFormula(Clockwork):
    """This machine, as if its times followed a formula."""

    def describe(self) -> DeviceDescription:
        return describe_this_machine()


@pytest.fixture
def known(settings: Settings) -> None:
    """All that predictions need is there: searches time their leaders only."""
    machine = ByFormula(LOCAL, TracedNetwork.registered("digits_resnet", 10))
    make_plan(SearchSpec.parse(ORDER), roots(settings), local=lambda lock: machine)


def measuring(driver: int | None = None) -> psutil.Process | None:
    """The process that a driver, or this process, times in."""
    for child in psutil.Process(driver).children():
        with suppress(psutil.Error):  # it may end just now
            if "services.measuring" in child.cmdline():
                return child
    return None


def is_held(lock: Path) -> bool:
    """Whether a process times just now."""
    if not lock.exists():
        return False
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def timing(lock: Path, driver: int | None = None, *, hangs: bool = False) -> psutil.Process:
    """The process that a driver times in, in the middle of a timing, which hangs if it is to."""
    while True:
        until(lambda: is_held(lock) and measuring(driver) is not None)
        child = measuring(driver)
        assert child is not None
        if not hangs:
            return child
        child.suspend()
        if is_held(lock):
            return child
        child.resume()


@contextmanager
def driven(
    job: SearchJob, store: SqlStore, settings: Settings, requests: Requests | None = None
) -> Iterator[list[SearchJob]]:
    """A search that is driven by a thread, until it ends soon after the block; gives what it ended as."""
    ended: list[SearchJob] = []
    thread = threading.Thread(target=lambda: ended.append(drive(job, store, settings, requests=requests)), daemon=True)
    thread.start()
    yield ended
    thread.join(60)


def test_a_search_whose_network_crashes_the_runtime_fails_and_says_which(
    claimed: SearchJob, store: SqlStore, settings: Settings, lock: Path
) -> None:
    with driven(claimed, store, settings) as ended:
        timing(lock).kill()
    assert [search.state for search in ended] == [SearchState.FAILED]
    said = "could not time .*: The process that measures was ended by SIGKILL, as the system does when memory runs out."
    assert re.fullmatch(f"Device 'local' {said}", str(ended[0].state_reason))


def test_a_search_whose_network_hangs_the_runtime_fails_and_says_which(
    claimed: SearchJob, store: SqlStore, settings: Settings, lock: Path
) -> None:
    impatient = settings.model_copy(update={"measurement_seconds": 10})
    with driven(claimed, store, impatient) as ended:
        timing(lock, hangs=True)
    assert [search.state for search in ended] == [SearchState.FAILED]
    limit = "It took longer than 10 s and was stopped; the service's AUTOML_PRUNE_MEASUREMENT_SECONDS allows more."
    assert re.fullmatch(f"Device 'local' could not time .*: {limit}", str(ended[0].state_reason))
    until(lambda: measuring() is None, 60)


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_a_leader_that_crashes_the_runtime_is_passed_over_and_the_next_one_is_timed(
    claimed: SearchJob,
    store: SqlStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("automl_prune.latency.gauge.AGAIN_SECONDS", 0)
    time_it, killed = IsolatedMachine.time, list[Work]()

    def crashing(machine: IsolatedMachine, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        if isinstance(works[0], NetworkWork) and works[0].widths and not killed:
            child = measuring()
            assert child is not None
            child.kill()
            killed.append(works[0])
        time_it(machine, works, conditions, done)

    monkeypatch.setattr(IsolatedMachine, "time", crashing)
    ended = drive(claimed, store, settings)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert killed
    said = "a leader is passed over: Device 'local' could not time digits_resnet at {.*}: The process that measures was"
    assert re.search(said, caplog.text)
    assert measuring() is None


@pytest.mark.parametrize(("request_it", "state"), [("cancel", SearchState.CANCELLED), ("pause", SearchState.PAUSED)])
def test_a_search_stops_when_asked_while_this_machine_hangs(
    request_it: str, state: SearchState, claimed: SearchJob, store: SqlStore, settings: Settings, lock: Path
) -> None:
    requests = Requests()
    with driven(claimed, store, settings, requests) as ended:
        timing(lock, hangs=True)
        getattr(store, f"request_{request_it}")(claimed.id)
        getattr(requests, request_it).set()
    assert [search.state for search in ended] == [state]
    assert measuring() is None


def test_a_search_that_waits_for_its_turn_at_this_machine_stops_when_asked(
    claimed: SearchJob, store: SqlStore, settings: Settings, lock: Path
) -> None:
    requests = Requests()
    lock.parent.mkdir(parents=True)
    with lock.open("w") as other, driven(claimed, store, settings, requests) as ended:
        fcntl.flock(other, fcntl.LOCK_EX)
        until(lambda: measuring() is not None)
        store.request_cancel(claimed.id)
        requests.cancel.set()
    assert [search.state for search in ended] == [SearchState.CANCELLED]


@pytest.mark.slow
def test_what_a_killed_driver_timed_in_ends_with_it(
    claimed: SearchJob, store: SqlStore, settings: Settings, lock: Path
) -> None:
    command = [sys.executable, "-m", "services.driver", claimed.id, str(claimed.attempt)]
    url = store.database.engine.url.render_as_string(hide_password=False)
    told = environment(settings) | {"AUTOML_PRUNE_DATABASE_URL": url}
    driver = subprocess.Popen(command, env=os.environ | told)
    try:
        child = timing(lock, driver.pid)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(20)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 60)
    assert not is_held(lock)
