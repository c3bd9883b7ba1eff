"""AMC as it is ordered: episodes on the digits, their weights reconstructed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import BudgetError, SpecError
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


GUARANTEED: dict[str, Any] = ORDER | {
    "seed": 2,
    "strategy": {"name": "amc", "options": {"reward": "accuracy_macs", "hidden": 32}},
    "budgets": [{"metric": "macs", "max_ratio": 1}],
    "recipe": {**ORDER["recipe"], "recalibrate_batches": 4},
    "base_training": {"epochs": 12},
    "trials": {"max": 20},
    "controls": [],
    "finish": {"recovery": "none", "top_k": 2},
}


def test_an_accuracy_guaranteed_search_ends_with_a_smaller_network_that_is_hardly_worse(tmp_path: Path) -> None:
    store, plan = MemoryStore(), planned(tmp_path, **GUARANTEED)
    store.add_search(ORDER | GUARANTEED, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    result = run_search(plan, job, store, InlineExecutor(), tmp_path / "artifacts").result
    assert result is not None
    assert result["provenance"]["options"]["fill"] is False
    assert result["metrics"]["macs"] < 0.85 * result["base_metrics"]["macs"]
    assert result["metrics"]["top1"] > result["base_metrics"]["top1"] - 0.02
    searched = [t.trial for t in store.trials(job.id) if t.trial.arm == "search"]
    loss = plan.make_strategy().ranking_loss
    assert result["trial"] == min(searched, key=lambda t: loss(t.candidate, t.metrics)).number


def test_a_reward_for_small_networks_and_filling_exclude_each_other(tmp_path: Path) -> None:
    wanted = {"name": "amc", "options": {"reward": "accuracy_macs", "fill": True}}
    with pytest.raises(SpecError, match="Leave fill out") as caught:
        planned(tmp_path, strategy=wanted)
    assert [error.pointer for error in caught.value.errors] == ["/strategy/options/fill"]


def test_a_result_names_the_layers_that_could_not_be_reconstructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here memory for the features of one layer, which comes first."""
    monkeypatch.setattr("automl_prune.evaluation.reconstruct.MEMORY", 8 * 144 * (144 + 16))
    order = ORDER | {"base_training": {"epochs": 1}, "controls": [], "trials": {"max": 5}}
    store, plan = MemoryStore(), planned(tmp_path, **order)
    store.add_search(order, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    result = run_search(plan, job, store, InlineExecutor(), tmp_path / "artifacts").result
    assert result is not None
    left = result["provenance"]["not_reconstructed"]
    assert "layer2.0.conv1" in left
    searched = next(t.trial for t in store.trials(job.id) if t.trial.number == result["trial"])
    assert searched.outcome is not None
    assert searched.outcome.details["not_reconstructed"] == left


def test_a_budget_below_its_lower_bound_is_refused_when_it_is_ordered(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="lower_bound"):
        planned(tmp_path, budgets=[{"metric": "macs", "max_ratio": 0.02}])
