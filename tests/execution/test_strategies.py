"""Every strategy's search on every executor: what one worker leaves behind, whichever made it, the others find."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from automl_prune.execution import ActorsExecutor, Connection, InlineExecutor, TuneExecutor
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.ports import Executor, TrialSource
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import Evaluator, Outcome, Trial, TrialState

MOST = 8
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 4, "frozen": ["layer1.*"]},
    "dataset": {"name": "digits", "select_size": 100, "report_size": 100, "batch_size": 100},
    "budgets": [{"metric": "macs", "max_ratio": 0.6}],
    "base_training": {"epochs": 2},
    "trials": {"max": MOST, "parallel": 2},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "recovery": "none"},
}
RECIPE: dict[str, Any] = {"recalibrate_batches": 1, "fine_tune": {"steps": 1}}
RECIPES: dict[str, dict[str, Any]] = {
    "metapruning": {"recalibrate_batches": 1, "hypernetwork": {"epochs": 1, "least_ratio": 0}},
    "amc": RECIPE | {"reconstruct_images": 100, "reconstruct_points": 2},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "abc": {"population": 3},
    "amc": {"warmup": 3, "hidden": 8},
    "evolution": {"population": 4},
    "metapruning": {"population": 4},
    "netadapt": {"initial_reduction": 0.3},
    "nsga2": {"population": 4},
    "optuna": {"startup": 4},
    "sensitivity": {"points": 1},
}
BARRIERS = ("amc", "metapruning", "netadapt", "random", "uniform")
"""Strategies that wait for all trials before the next depends on them, or depend on none: the same whatever ends first."""
ALWAYS = {("netadapt", "actors")}
"""What is tested without being asked for: starting workers takes long."""


def search(folder: Path, roots: Roots, strategy: str, kind: str) -> list[Trial]:
    """All trials of a search that succeeded."""
    recipe = RECIPES.get(strategy, RECIPE)
    order = ORDER | {"strategy": {"name": strategy, "options": OPTIONS.get(strategy, {})}, "recipe": recipe}
    store = MemoryStore()
    store.add_search(order, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    executors: dict[str, Executor] = {
        "inline": InlineExecutor(),
        "actors": ActorsExecutor(job.id, workers=2),
        "tune": TuneExecutor(job.id, workers=2),
    }
    ended = run_search(make_plan(SearchSpec.parse(order), roots), job, store, executors[kind], folder)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    return [stored.trial for stored in store.trials(job.id)]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    folder = tmp_path_factory.mktemp("roots")
    return Roots(folder / "data", folder / "weights", folder / "cache")


class Deadly:
    """Builds evaluators whose process ends by SIGKILL when a trial was evaluated and its outcome is not told yet."""

    def __init__(self, make: Callable[[], Evaluator], notes: Path, name: str, deaths: int) -> None:
        self.make, self.notes, self.name, self.deaths = make, notes, name, deaths

    def __call__(self) -> Evaluator:
        evaluate = self.make()

        def deadly(trial: Trial) -> Outcome:
            outcome = evaluate(trial)
            called = (trial.origin.get("iteration"), trial.origin.get("group")) == (2, self.name)
            if called and len(list(self.notes.glob("death-*"))) < self.deaths:
                (self.notes / f"death-{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return outcome

        return deadly


class DeadlyActors(ActorsExecutor):
    """Workers that lose a trial when they die, as if no other were tried; see :class:`Deadly`."""

    def __init__(self, search_id: str, notes: Path, name: str, deaths: int) -> None:
        super().__init__(search_id, workers=2, max_attempts=1)
        self.notes, self.name, self.deaths = notes, name, deaths

    def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        super().run(source, Deadly(make_evaluator, self.notes, self.name, self.deaths))


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2])
def test_netadapt_completes_an_iteration_that_kills_workers(
    local_ray: Connection, deaths: int, roots: Roots, tmp_path: Path
) -> None:
    """NA-11: the trial fails and is asked for once more; where that kills as well, its group sits out the iteration."""
    strategy = {"name": "netadapt", "preset": "published", "options": {"initial_reduction": 0.15}}
    order = ORDER | {"strategy": strategy, "recipe": RECIPE, "trials": {"max": 60, "parallel": 2}, "controls": []}
    plan, store = make_plan(SearchSpec.parse(order), roots), MemoryStore()
    groups = list(plan.problem.space.names)
    store.add_search(order, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = run_search(plan, job, store, DeadlyActors(job.id, tmp_path, groups[1], deaths), tmp_path / "artifacts")
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert len(list(tmp_path.glob("death-*"))) == deaths

    searched = [t.trial for t in store.trials(job.id) if t.trial.arm == "search"]
    lost = [t for t in searched if t.state is TrialState.FAILED]
    assert [(t.origin["iteration"], t.origin["group"], t.origin["attempt"]) for t in lost] == [
        (2, groups[1], attempt + 1) for attempt in range(deaths)
    ]
    assert all("killed" in (t.outcome.reason or "") for t in lost if t.outcome)
    for iteration in range(1, max(t.origin["iteration"] for t in searched) + 1):
        asked = {t.origin["group"] for t in searched if t.origin["iteration"] == iteration}
        scored = [t for t in searched if t.origin["iteration"] == iteration and t.state is TrialState.COMPLETE]
        out = {groups[1]} if (deaths, iteration) == (2, 2) else set()
        assert sorted(t.origin["group"] for t in scored) == sorted(asked - out), iteration
    assert ended.result is not None
    iterations = {t.number: t.origin["iteration"] for t in searched}
    winners = [iterations[row["trial"]] for row in ended.result["family"]]
    assert winners == list(range(1, 1 + len(winners)))
    assert ended.result["metrics"]["macs"] <= 0.6 * ended.result["base_metrics"]["macs"]


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        pytest.param(strategy, kind, marks=() if (strategy, kind) in ALWAYS else pytest.mark.slow)
        for kind in ("actors", "tune")
        for strategy in STRATEGIES
    ],
)
def test_a_search_on_other_processes_is_that_of_this_one(
    local_ray: Connection, strategy: str, kind: str, roots: Roots, tmp_path: Path
) -> None:
    ours, theirs = (search(tmp_path / where, roots, strategy, where) for where in ("inline", kind))
    assert {t.state for t in theirs} == {TrialState.COMPLETE}
    assert [t.arm for t in ours] == [t.arm for t in theirs]
    searched = [t for t in theirs if t.arm == "search"]
    assert 0 < len(searched) <= MOST
    if strategy in BARRIERS:
        assert [(t.candidate, t.parent, t.origin, t.metrics) for t in ours] == [
            (t.candidate, t.parent, t.origin, t.metrics) for t in theirs
        ]
    if strategy == "netadapt":
        assert any(t.parent is not None for t in searched), "no weights were handed on"
    if strategy == "metapruning":
        assert [t.arm for t in theirs].count("preparation") == 2
        assert (tmp_path / kind / "hypernetwork.safetensors").is_file()
