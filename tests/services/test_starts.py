"""Starts that come to nothing: no search is to blame for a launcher that is broken, and the queue is not used up by it."""

import errno
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from automl_prune.errors import NotReadyError, WorkersLostError
from automl_prune.execution import ActorsExecutor
from automl_prune.loop.job import SearchJob, SearchState, Worker
from automl_prune.storage.sql import SqlStore
from services.driver import NOT_READY, give_up
from services.launcher.backoff import Backoff
from services.launcher.launcher import Launcher
from services.settings import Settings, load_settings
from services.wiring import cluster
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True
Order = Callable[..., dict[str, Any]]


@pytest.fixture
def launcher(store: SqlStore, settings: Settings) -> Iterator[Launcher]:
    made = Launcher(store, settings)
    yield made
    made.stop_all()
    made._ray.end()


def stepped(launcher: Launcher, store: SqlStore, search: str, until_so: Callable[[SearchJob], bool]) -> SearchJob:
    """The search once something is so, while the launcher works."""

    def look() -> bool:
        launcher.step()
        return until_so(store.get_search(search))

    until(look, 30, lambda: store.get_search(search))
    return store.get_search(search)


def given_back(job: SearchJob) -> bool:
    return job.attempt == 1 and job.lease_expires_at is None


@pytest.mark.parametrize(
    ("python", "execution", "why"),
    [
        ("/no/python", "inline", "no driver could be started: FileNotFoundError"),
        ("/bin/false", "inline", "its driver did not get to work: it ended with exit code 1; see search.log"),
        ("/bin/false", "actors", "no local Ray started within 90 seconds"),
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
    search = store.add_search(order(execution=execution), name=None, labels={}).id
    monkeypatch.setattr(sys, "executable", python)
    job = stepped(launcher, store, search, given_back)
    assert (job.state, job.losses) == (SearchState.QUEUED, 0)
    assert (job.state_reason or "").startswith(f"queued again: {why}")
    assert [attempt.lost for attempt in store.attempts(search)] == [False]
    for _ in range(5):
        launcher.step()
    assert store.get_search(search).attempt == 1, "it takes its time before the next start"
    stepped(launcher, store, search, lambda job: job.attempt == 2)


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
        before = now[0]
        while not backoff.over:
            now[0] += 1
        pauses.append(now[0] - before)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.trouble == "broken"
    backoff.failed("again")
    backoff.worked()
    assert backoff.over
    said: str | None = backoff.trouble
    assert said is None
    began = time.monotonic()
    real = Backoff()
    real.failed("broken")
    assert not real.over or time.monotonic() - began >= 1
