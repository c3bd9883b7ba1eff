"""Real processes, killed by SIGKILL or told to rest: the API, the launcher, Ray's workers and its raylet."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import TrialState
from services import ray_auth
from services.driver import drive
from services.settings import Settings, environment, load_settings
from services.wiring import open_store
from tests.services.waiting import until

pytestmark = pytest.mark.timeout(900)  # many processes are started, one after the other

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "abc", "options": {"population": 3}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2},
    "base_training": {"epochs": 1},
    "trials": {"max": 5000},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("home"), lease_seconds=30, workers=2)


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[SqlStore]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture
def launchers(settings: Settings, store: SqlStore) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a launcher; those that still run are ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.launcher"]
        started.append(subprocess.Popen(command, env=os.environ | environment(settings)))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def drivers(job: SearchJob) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if "services.driver" in arguments and job.id in arguments and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def completed(store: SqlStore, job: SearchJob) -> dict[int, Any]:
    """When trials completed, by number."""
    return {t.trial.number: t.ended_at for t in store.trials(job.id) if t.trial.state is TrialState.COMPLETE}


def reached(store: SqlStore, job: SearchJob, count: int) -> Callable[[], bool]:
    return lambda: len(completed(store, job)) >= count


def state(store: SqlStore, job: SearchJob, *states: SearchState) -> Callable[[], bool]:
    return lambda: store.get_search(job.id).state in states


def undisturbed(store: SqlStore, settings: Settings, order: dict[str, Any], count: int) -> SearchJob:
    """A search of so many trials by the same order and seed that nothing happens to; no launcher may run meanwhile."""
    changes = {"trials": {"max": count}, "execution": "inline"}
    job = store.add_search(order | changes, name=None, labels={})
    claimed = store.claim(lease_seconds=600)
    assert claimed is not None
    assert claimed.id == job.id
    ended = drive(claimed, store, settings)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    return ended


def asked(store: SqlStore, job: SearchJob, count: int) -> list[Any]:
    """The first candidates that a search's strategy asked for."""
    return [(t.trial.number, t.trial.candidate) for t in store.trials(job.id, arm="search")][:count]


ENOUGH = 150
"""So many trials do not end while this process is slow to look."""


def test_a_search_rests_goes_on_and_survives_its_launcher(
    store: SqlStore, settings: Settings, launchers: Callable[[], subprocess.Popen[bytes]]
) -> None:
    expected = undisturbed(store, settings, ORDER, ENOUGH)
    job = store.add_search(ORDER | {"trials": {"max": ENOUGH}}, name=None, labels={})
    launcher = launchers()
    until(reached(store, job, 4))
    store.request_pause(job.id)
    until(state(store, job, SearchState.PAUSED))
    resting = store.get_search(job.id)
    assert (resting.lease_expires_at, resting.state_reason, resting.losses) == (None, "paused by request", 0)
    assert all(t.trial.state is TrialState.COMPLETE for t in store.trials(job.id)), "trials in flight are finished"
    until(lambda: not drivers(job))
    before = completed(store, job)
    time.sleep(1)
    assert store.get_search(job.id).state is SearchState.PAUSED, "nobody claims it"

    store.request_resume(job.id)
    until(reached(store, job, len(before) + 3))
    launcher.kill()
    until(state(store, job, SearchState.QUEUED))
    waiting = store.get_search(job.id)
    assert (waiting.state_reason, waiting.losses) == ("queued again: the service was stopped", 0)
    until(lambda: not drivers(job))
    before |= completed(store, job)

    launchers()
    until(state(store, job, SearchState.SUCCEEDED, SearchState.FAILED), 480)
    assert store.get_search(job.id).state is SearchState.SUCCEEDED
    assert {number: completed(store, job)[number] for number in before} == before, "nothing is evaluated twice"
    assert asked(store, job, ENOUGH) == asked(store, expected, ENOUGH), "the asks differ from an undisturbed search's"


def test_an_accepted_order_survives_the_api(store: SqlStore, settings: Settings) -> None:
    command = [sys.executable, "-m", "services.cli", "serve", "--no-launcher", "--port", "0"]
    served = subprocess.Popen(command, env=os.environ | environment(settings), stdout=subprocess.PIPE, text=True)
    with served:
        assert served.stdout is not None
        address = served.stdout.readline().split()[-1]
        response = httpx.post(f"{address}/v1/searches", json=ORDER, timeout=120)
        served.kill()
    assert response.status_code == 201, response.text
    job = store.get_search(response.json()["id"])
    assert job.state is SearchState.QUEUED
    assert store.request_cancel(job.id).state is SearchState.CANCELLED


LIST = """
import json, sys
from ray.util.state import list_actors
found = list_actors(sys.argv[1], limit=1000)
print(json.dumps([a.pid for a in found if a.class_name in ("PruneWorker", "PruneTrial") and a.state != "DEAD"]))
"""


def actors(store: SqlStore, settings: Settings, job: SearchJob) -> list[int]:
    """Process ids of the workers that Ray knows of and that live; asked from a process that has the token from its start."""
    dashboard = store.get_search(job.id).info["links"]["ray_dashboard"].partition("/#")[0]
    variables = os.environ | ray_auth.variables(settings.home)
    command = [sys.executable, "-c", LIST, dashboard]
    said = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    found: list[int] = json.loads(said.stdout)
    return found


ON_RAY = ORDER | {"strategy": {"name": "random"}, "trials": {"max": 5000, "parallel": 1}, "execution": "actors"}
FIRST = 20
"""So many of its asks are compared with those of an undisturbed search."""


def test_a_worker_may_die_and_cancel_leaves_none(
    store: SqlStore, settings: Settings, launchers: Callable[[], subprocess.Popen[bytes]]
) -> None:
    expected = undisturbed(store, settings, ON_RAY, FIRST)
    job = store.add_search(ON_RAY, name=None, labels={})
    launchers()
    until(reached(store, job, 4))
    os.kill(actors(store, settings, job)[0], signal.SIGKILL)
    until(lambda: any(t.trial.attempt == 2 and t.trial.state is TrialState.COMPLETE for t in store.trials(job.id)))
    until(lambda: len(asked(store, job, FIRST)) == FIRST)
    assert asked(store, job, FIRST) == asked(store, expected, FIRST)
    assert actors(store, settings, job)
    store.request_cancel(job.id)
    until(state(store, job, SearchState.CANCELLED), 60)
    until(lambda: not actors(store, settings, job), 60)
    assert all(t.trial.state.is_terminal for t in store.trials(job.id))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_ray_may_die(
    store: SqlStore, settings: Settings, launchers: Callable[[], subprocess.Popen[bytes]], part: str
) -> None:
    expected = undisturbed(store, settings, ON_RAY, FIRST)
    job = store.add_search(ON_RAY, name=None, labels={})
    launcher = launchers()
    until(reached(store, job, 4))
    before = completed(store, job)
    next(p for p in psutil.Process(launcher.pid).children(recursive=True) if p.name() == part).kill()
    until(lambda: store.attempts(job.id)[0].lost)
    assert "the local Ray died" in (store.attempts(job.id)[0].reason or "")
    until(reached(store, job, len(before) + 3))
    until(lambda: len(asked(store, job, FIRST)) == FIRST)
    assert {number: completed(store, job)[number] for number in before} == before
    assert asked(store, job, FIRST) == asked(store, expected, FIRST)
    store.request_cancel(job.id)
    until(state(store, job, SearchState.CANCELLED), 60)
    until(lambda: not drivers(job), 60)
