"""Every strategy's search on every executor: what one worker leaves behind, whichever made it, the others find."""

from pathlib import Path
from typing import Any

import pytest

from automl_prune.execution import ActorsExecutor, Connection, InlineExecutor, TuneExecutor
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.ports import Executor
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import Trial, TrialState

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
ALWAYS = {("netadapt", "actors"), ("metapruning", "tune")}
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
