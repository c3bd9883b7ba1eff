"""Starts that come to nothing: no search is to blame for a launcher that is broken, and the queue is not used up by it."""

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from automl_prune.errors import NotReadyError, WorkersLostError
from automl_prune.execution import ActorsExecutor
from automl_prune.loop.job import SearchJob, SearchState, Worker
from automl_prune.loop.ports import Store
from automl_prune.storage.sql import SqlStore
from services.driver import NOT_READY, Requests, give_up, heartbeat
from services.launcher.backoff import Backoff
from services.launcher.launcher import Launcher
from services.settings import Settings, load_settings
from services.wiring import cluster
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True
Order = Callable[..., dict[str, Any]]


@pytest.fixture
def make_launcher(store: SqlStore) -> Iterator[Callable[[Settings], Launcher]]:
    """Makes launchers in this process, which are stopped in the end."""
    made: list[Launcher] = []

    def make(settings: Settings) -> Launcher:
        made.append(Launcher(store, settings))
        return made[-1]

    yield make
    for each in made:
        each.stop_all()
        each._ray.end()


@pytest.fixture
def launcher(make_launcher: Callable[[Settings], Launcher], settings: Settings) -> Launcher:
    return make_launcher(settings)


def stepped(launcher: Launcher, store: SqlStore, search: str, until_so: Callable[[SearchJob], bool]) -> SearchJob:
    """The search once something is so, while the launcher works."""

    def look() -> bool:
        launcher.step()
        return until_so(store.get_search(search))

    until(look, why=lambda: store.get_search(search))
    return store.get_search(search)


def given_back(job: SearchJob) -> bool:
    return job.attempt == 1 and job.lease_expires_at is None


@pytest.mark.parametrize(
    ("python", "execution", "why"),
    [
        ("/no/python", "inline", "no driver could be started: FileNotFoundError"),
        ("/bin/false", "inline", "its driver did not get to work: it ended with exit code 1; see search.log"),
        ("/bin/false", "actors", "no local Ray started within 180 seconds"),
    ],
)
def test_a_broken_launcher_costs_no_search_anything(
    launcher: Launcher,
    store: SqlStore,
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    execution: str,
    why: str,
) -> None:
    now = [0.0]
    launcher._backoff = Backoff(lambda: now[0])
    search = store.add_search(order(execution=execution), name=None, labels={}).id
    monkeypatch.setattr(sys, "executable", python)
    job = stepped(launcher, store, search, given_back)
    assert (job.state, job.losses) == (SearchState.QUEUED, 0)
    assert (job.state_reason or "").startswith(f"queued again: {why}")
    assert [attempt.lost for attempt in store.attempts(search)] == [False]
    for _ in range(5):
        launcher.step()
    assert store.get_search(search).attempt == 1, "it takes its time before the next start"
    assert "trying again after 1 s" in (launcher.trouble or "")
    now[0] += 1
    stepped(launcher, store, search, lambda job: job.attempt == 2)


@pytest.fixture
def slow_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is started takes its time, and more."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.usefixtures("slow_python")
@pytest.mark.parametrize("execution", ["inline", "actors"])
def test_a_claim_is_kept_while_its_driver_or_its_ray_starts(
    launcher: Launcher, store: SqlStore, order: Order, monkeypatch: pytest.MonkeyPatch, execution: str
) -> None:
    search = store.add_search(order(execution=execution), name=None, labels={}).id

    ends: list[datetime] = []

    def renewed_twice(job: SearchJob) -> bool:
        if job.lease_expires_at is not None and job.lease_expires_at not in ends:
            ends.append(job.lease_expires_at)
        return len(ends) == 3

    assert stepped(launcher, store, search, renewed_twice).attempt == 1
    assert ends == sorted(ends)
    expected = {"actors": "waiting for Ray to start", "inline": "starting a driver"}
    assert store.get_search(search).state_reason == expected[execution]
    store.request_cancel(search)
    monkeypatch.setattr("services.launcher.launcher.CANCEL_SECONDS", 0.0)
    stepped(launcher, store, search, lambda job: job.state is SearchState.CANCELLED)


@pytest.mark.usefixtures("slow_python")
def test_a_driver_that_never_gets_to_work_is_stuck(
    launcher: Launcher, store: SqlStore, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.launcher.launcher.IMPORTING_SECONDS", 0.5)
    search = store.add_search(order(execution="inline"), name=None, labels={}).id
    job = stepped(launcher, store, search, given_back)
    assert (job.state, job.losses) == (SearchState.QUEUED, 0)
    assert "it did not get to work within 0 seconds" in (job.state_reason or "")


@pytest.mark.usefixtures("slow_python")
def test_a_launcher_whose_store_is_away_still_ends_its_drivers(
    launcher: Launcher, store: SqlStore, order: Order, without_table: Callable[[str], AbstractContextManager[None]]
) -> None:
    store.add_search(order(execution="inline"), name=None, labels={})
    launcher.step()
    (running,) = launcher._running
    with without_table("searches"):
        launcher.stop_all()
    assert running.ended


@pytest.mark.usefixtures("slow_python")
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # where a table that is missing is a database that is away
def test_a_search_whose_store_goes_away_at_its_start_is_started_once_and_later(
    launcher: Launcher, store: SqlStore, order: Order, without_table: Callable[[str], AbstractContextManager[None]]
) -> None:
    search = store.add_search(order(execution="inline"), name=None, labels={}).id
    with without_table("trial_counts"), pytest.raises(OperationalError):
        launcher.step()
    assert launcher._running == []
    launcher.step()
    launcher.step()
    assert len(launcher._running) == 1
    assert (store.get_search(search).attempt, len(store.attempts(search))) == (1, 1)


class Forgetful:
    """A store that is away right after it refused a driver, for a moment."""

    def __init__(self, store: SqlStore, moments: int) -> None:
        self._store, self._moments = store, moments
        self.asked = threading.Event()

    def renew(self, search: str, attempt: int, *, lease_seconds: float) -> SearchJob:
        return self._store.renew(search, attempt, lease_seconds=lease_seconds)

    def get_search(self, search: str) -> SearchJob:
        self._moments -= 1
        if self._moments >= 0:
            raise OperationalError("SELECT", {}, Exception("away"))
        self.asked.set()
        return self._store.get_search(search)


def test_a_heartbeat_outlives_a_store_that_goes_away_when_it_is_asked_why(store: SqlStore, order: Order) -> None:
    store.add_search(order(), name=None, labels={})
    job = store.claim(lease_seconds=60)
    assert job is not None
    forgetful = Forgetful(store, 2)
    with heartbeat(cast(Store, forgetful), job, 0.3, Requests()):
        store.release(job.id, job.attempt, reason="so")
        assert forgetful.asked.wait(20)


def test_a_launcher_without_room_puts_the_searches_of_dead_ones_right(
    store: SqlStore, settings: Settings, order: Order
) -> None:
    """Here without the room, or the cluster, that claims need."""
    away = load_settings(home=settings.home, ray_address="127.0.0.1:1")
    cancelled, queued = (store.add_search(order(), name=None, labels={}).id for _ in range(2))
    for _ in range(2):
        assert store.claim(lease_seconds=60) is not None
    store.request_cancel(cancelled)
    for search in (cancelled, queued):
        store.renew(search, 1, lease_seconds=0)
    Launcher(store, away).step()
    assert store.get_search(cancelled).state is SearchState.CANCELLED
    assert store.get_search(queued).state is SearchState.QUEUED


def test_a_search_whose_folder_has_no_room_pauses(
    launcher: Launcher, store: SqlStore, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = store.add_search(order(execution="inline"), name=None, labels={}).id

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(subprocess, "Popen", full)
    job = stepped(launcher, store, search, given_back)
    assert (job.state, job.losses) == (SearchState.PAUSED, 0)
    assert (job.state_reason or "").startswith("paused: no room for its files (OSError: [Errno 28] No space left")


@pytest.mark.parametrize(
    ("error", "code", "state", "losses", "why"),
    [
        (OSError(errno.ENOSPC, "full"), NOT_READY, "paused", 0, "paused: no room for its files (OSError: [Errno 28] full)"),
        (NotReadyError("no Ray"), NOT_READY, "queued", 0, "queued again: no Ray"),
        (NotReadyError("too large", aside=True), NOT_READY, "paused", 0, "paused: too large"),
        (
            WorkersLostError("gone"),
            1,
            "queued",
            1,
            "queued again: driver 1 of at most 3 was lost: WorkersLostError: gone",
        ),
        (KeyError("ours"), 1, "queued", 1, "queued again: driver 1 of at most 3 was lost: KeyError: 'ours'."),
    ],
)
def test_a_search_is_lost_only_where_it_may_be_to_blame(
    store: SqlStore, settings: Settings, order: Order, error: Exception, code: int, state: str, losses: int, why: str
) -> None:
    store.add_search(order(), name=None, labels={})
    job = store.claim(lease_seconds=60, worker=Worker.here("driver"))
    assert job is not None
    assert give_up(store, job, error, settings) == code
    now = store.get_search(job.id)
    assert (now.state, now.losses) == (state, losses)
    assert (now.state_reason or "").startswith(why)


def test_a_cluster_that_cannot_be_used_is_no_fault_of_the_search(settings: Settings) -> None:
    nowhere = load_settings(home=settings.home, ray_address="nowhere")
    with pytest.raises(NotReadyError, match=r"no connection to Ray .*HOST:PORT"), cluster(ActorsExecutor("srch_x"), nowhere):
        pass


def test_pauses_grow_until_a_start_comes_to_something() -> None:
    now = [100.0]
    backoff = Backoff(lambda: now[0])
    pauses = []
    for _ in range(8):
        assert backoff.over
        for _ in range(3):  # at the same time
            backoff.failed("broken")
        said = backoff.trouble
        before = now[0]
        while not backoff.over:
            now[0] += 1
        pauses.append(now[0] - before)
        assert (said, backoff.trouble) == (f"broken; trying again after {pauses[-1]:.0f} s", None)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.failed("again")
    backoff.worked()
    assert backoff.over
    began = time.monotonic()
    real = Backoff()
    real.failed("broken")
    assert not real.over or time.monotonic() - began >= 1
