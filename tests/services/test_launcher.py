"""Real processes: a launcher, its drivers, and what happens when they are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.trial import TrialState
from services.settings import Settings, environment, load_settings
from services.wiring import open_store
from tests.services.waiting import until

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "abc", "options": {"population": 3}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2},
    "base_training": {"epochs": 2},
    "trials": {"max": 40},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 1},
    "execution": "inline",
}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    url = request.getfixturevalue("emptied_postgres")() if request.param == "postgresql" else None
    return load_settings(home=tmp_path_factory.mktemp("home"), workers=1, database_url=url, max_attempts=2)


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[Store]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture
def launcher(settings: Settings, store: Store) -> Iterator[subprocess.Popen[bytes]]:
    process = start(settings)
    yield process
    process.terminate()
    assert process.wait(120) == 0


def start(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "services.launcher"], env=os.environ | environment(settings))


def ended(store: Store, job: SearchJob) -> SearchJob:
    until(lambda: store.get_search(job.id).state.is_terminal)
    return store.get_search(job.id)


def drivers(job: SearchJob) -> list[int]:
    """Process ids of the drivers of a search, from /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"services.driver" in arguments and job.id.encode() in arguments:
            found.append(int(folder.name))
    return found


def at_work(store: Store, job: SearchJob) -> bool:
    """Whether a driver has taken the search over from the launcher: until then no search is to blame for its death."""
    return store.get_search(job.id).owner == "driver"


def searched(store: Store, job: SearchJob) -> int:
    return len(store.trials(job.id, arm="search", state="complete"))


def test_a_killed_driver_is_replaced_and_no_finished_trial_is_repeated(
    store: Store, settings: Settings, launcher: subprocess.Popen[bytes]
) -> None:
    first = store.add_search(ORDER, name="undisturbed", labels={})
    expected = ended(store, first)
    assert expected.state is SearchState.SUCCEEDED, expected.state_reason
    second = store.add_search(ORDER, name="killed", labels={})
    until(lambda: searched(store, second) >= 2)
    before = {t.trial.number: t.ended_at for t in store.trials(second.id) if t.trial.state is TrialState.COMPLETE}
    for pid in drivers(second):
        os.kill(pid, signal.SIGKILL)
    job = ended(store, second)
    assert job.state is SearchState.SUCCEEDED, job.state_reason
    assert job.attempt == 2
    assert [attempt.lost for attempt in store.attempts(job.id)] == [True, False]
    assert job.losses == 0, "it got on since"
    after = {t.trial.number: t.ended_at for t in store.trials(second.id)}
    assert {n: after[n] for n in before} == before, "a finished trial was evaluated again"
    asked = [[(t.trial.number, t.trial.candidate, t.trial.arm) for t in store.trials(j.id)] for j in (first, second)]
    assert asked[0] == asked[1], "the asks differ from an undisturbed search's"
    assert job.result is not None
    assert expected.result is not None
    assert job.result["metrics"]["macs"] == expected.result["metrics"]["macs"]
    assert (settings.artifacts_root / job.id / "model.safetensors").is_file()


def test_a_running_search_is_cancelled_and_leaves_no_driver(store: Store, launcher: subprocess.Popen[bytes]) -> None:
    job = store.add_search(ORDER | {"trials": {"max": 5000}}, name=None, labels={})
    until(lambda: searched(store, job) >= 2)
    asked = time.monotonic()
    store.request_cancel(job.id)
    assert ended(store, job).state is SearchState.CANCELLED
    assert time.monotonic() - asked < 60
    until(lambda: not drivers(job), 60)
    assert all(t.trial.state.is_terminal for t in store.trials(job.id))


@pytest.mark.slow  # a killed one is every day's, in test_killed_processes.py
def test_a_stopped_launcher_gives_its_search_back_and_the_next_one_continues(store: Store, settings: Settings) -> None:
    job = store.add_search(ORDER, name=None, labels={})
    process = start(settings)
    until(lambda: searched(store, job) >= 3)
    process.terminate()
    assert process.wait(30) == 0
    waiting = store.get_search(job.id)
    assert (waiting.state, waiting.state_reason) == (SearchState.QUEUED, "queued again: the service was stopped")
    assert not drivers(job)
    again = start(settings)
    try:
        assert ended(store, job).state is SearchState.SUCCEEDED
    finally:
        again.terminate()
        assert again.wait(30) == 0


def test_an_order_that_became_impossible_fails_with_its_reason(store: Store, launcher: subprocess.Popen[bytes]) -> None:
    job = store.add_search(ORDER | {"weights": "gone.pt"}, name=None, labels={})
    failed = ended(store, job)
    assert failed.state is SearchState.FAILED
    assert "gone.pt" in (failed.state_reason or "")


def test_a_driver_that_always_dies_fails_the_search(
    store: Store, launcher: subprocess.Popen[bytes], settings: Settings
) -> None:
    slow_base = {"base_training": {"epochs": 1000}, "seed": 9}  # so that no driver gets as far as an outcome
    job = store.add_search(ORDER | slow_base, name=None, labels={})
    for loss in range(1, settings.max_attempts + 1):
        until(lambda loss=loss: (at_work(store, job), store.get_search(job.id).attempt) == (True, loss))  # type: ignore[misc]
        for pid in drivers(job):
            os.kill(pid, signal.SIGKILL)
        until(lambda loss=loss: store.get_search(job.id).losses == loss)  # type: ignore[misc]
    failed = ended(store, job)
    assert failed.state is SearchState.FAILED
    assert failed.state_reason == (
        "driver 2 of at most 2 was lost: it was ended by SIGKILL (exit 137, out of memory?); see search.log"
    )
