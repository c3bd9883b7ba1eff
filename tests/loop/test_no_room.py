"""Files that find no room: the search pauses with the reason, loses nothing, and goes on once there is some."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.trial import Trial

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 1},
    "base_training": {"epochs": 1},
    "trials": {"max": 3},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}


@contextmanager
def room_put_back() -> Iterator[None]:
    """Undo :func:`no_room`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_room() -> None:
    """Let no file of this process grow beyond 2 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class House:
    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, MemoryStore()
        self.plan: Plan = make_plan(SearchSpec.parse(ORDER), Roots(folder, folder, folder))
        self.store.add_search(ORDER, name=None, labels={})

    def drive(self, on_trial: Callable[[Trial], None] = lambda trial: None) -> SearchJob:
        job = self.store.claim(lease_seconds=600)
        assert job is not None
        return run_search(self.plan, job, self.store, InlineExecutor(), self.folder / "artifacts", on_trial=on_trial)

    def trials(self, search_id: str) -> list[Trial]:
        return [stored.trial for stored in self.store.trials(search_id)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize("told", [0, 5])
def test_a_search_without_room_pauses_and_goes_on_later(house: House, told: int) -> None:
    def fill(trial: Trial) -> None:
        if trial.number == told - 1:
            no_room()

    with room_put_back():
        if not told:
            no_room()
        job = house.drive(fill)
    assert job.state is SearchState.PAUSED, job.state_reason
    assert "no room for its files (OSError: [Errno 27] File too large" in (job.state_reason or "")
    assert (job.lease_expires_at, job.losses) == (None, 0)
    assert house.store.claim(lease_seconds=1) is None, "a paused search is nobody's"
    before = house.trials(job.id)
    assert sum(t.outcome is not None for t in before) == told
    assert before[-1].outcome is None, "what found no room is not to blame"
    house.store.request_resume(job.id)
    ended = house.drive()
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    after = house.trials(job.id)
    assert [(t.number, t.candidate) for t in after[: len(before)]] == [(t.number, t.candidate) for t in before]
    assert after[len(before) - 1].attempt == 2
