"""AMC as it is ordered: episodes on the digits, their weights reconstructed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import BudgetError
from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.trial import Trial

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "amc", "preset": "published", "options": {"warmup": 4, "hidden": 32}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"reconstruct_images": 500, "reconstruct_points": 5},
    "base_training": {"epochs": 6},
    "trials": {"max": 8},
    "controls": ["uniform"],
    "finish": {"recovery": "none"},
    "execution": "inline",
}


def planned(folder: Path, **changes: Any) -> Plan:
    return make_plan(SearchSpec.parse(ORDER | changes), Roots(folder / "data", folder / "weights", folder / "cache"))


def test_episodes_are_evaluated_with_reconstructed_weights(tmp_path: Path) -> None:
    store, plan = MemoryStore(), planned(tmp_path)
    assert plan.recipe.inherit == "l1_inputs"
    store.add_search(ORDER, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = run_search(plan, job, store, InlineExecutor(), tmp_path / "artifacts")
    assert ended.state is SearchState.SUCCEEDED
    searched = [t.trial for t in store.trials(job.id) if t.trial.arm == "search"]
    assert [t.origin["phase"] for t in searched] == ["explore"] * 4 + ["exploit"] * 4
    assert all(plan.problem.is_feasible(t.candidate) for t in searched)

    setup = plan.setup(tmp_path / "artifacts")
    plainly = replace(setup, recipe=setup.recipe.model_copy(update={"reconstruct": "none"}))
    trial = Trial(99, plan.problem.widest_uniform)
    fitted, plain = (CandidateEvaluator(s)(trial) for s in (setup, plainly))
    assert fitted.metrics["loss"] < plain.metrics["loss"]
    assert fitted.cost["images"] == plain.cost["images"] + 8 * 64


def test_a_budget_below_its_lower_bound_is_refused_when_it_is_ordered(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="lower_bound"):
        planned(tmp_path, budgets=[{"metric": "macs", "max_ratio": 0.02}])
