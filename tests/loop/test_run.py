"""One real search, in this process, on the digits: trained, searched, recovered, reported, exported."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from automl_prune import cost, load_architecture
from automl_prune.costs import CONVENTION
from automl_prune.errors import UserError, WeightsError
from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.scoring import score
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.ports import TrialSource
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.trial import Evaluator, Trial, TrialState

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 2},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "abc", "options": {"population": 3}},
    "budgets": [{"metric": "macs", "max_ratio": 0.4}, {"metric": "params", "max_ratio": 0.9}],
    "recipe": {"recalibrate_batches": 4},
    "base_training": {"epochs": 12},
    "trials": {"max": 9},
    "finish": {"top_k": 2, "epochs": 3},
    "execution": "inline",
}


class Finished:
    def __init__(self, folder: Path) -> None:
        self.store, self.artifacts = MemoryStore(), folder / "artifacts"
        self.plan: Plan = make_plan(SearchSpec.parse(ORDER), Roots(folder / "data", folder / "weights", folder / "cache"))
        self.store.add_search(ORDER, name=None, labels={})
        job = self.store.claim(lease_seconds=600)
        assert job is not None
        self.job: SearchJob = run_search(self.plan, job, self.store, InlineExecutor(), self.artifacts)
        self.trials = [t.trial for t in self.store.trials(job.id)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("run"))


def test_it_succeeds_with_every_arm(finished: Finished) -> None:
    assert finished.job.state is SearchState.SUCCEEDED
    assert {t.state for t in finished.trials} == {TrialState.COMPLETE}
    arms = [t.arm for t in finished.trials]
    assert list(dict.fromkeys(arms)) == ["preparation", "base", "search", "uniform", "random", "final", "report"]


def test_the_result_keeps_its_contract(finished: Finished) -> None:
    result = finished.job.result
    assert result is not None
    contract = (
        "schema_version search_id trial model channels groups kept_channels metrics base_metrics controls budgets splits "
        "recovery provenance artifacts"
    )
    assert set(contract.split()) == set(result)
    assert set(result["controls"]) == {"uniform", "random"}
    assert {"strategy", "preset", "seed", "versions", "convention", "search_cost"} <= set(result["provenance"])
    assert result["metrics"]["macs"] <= 0.4 * result["base_metrics"]["macs"]
    assert result["metrics"]["params"] <= 0.9 * result["base_metrics"]["params"]
    assert result["base_metrics"]["top1"] > 0.9
    assert result["metrics"]["top1"] > 0.5


def test_every_trial_is_recorded_with_what_made_it(finished: Finished) -> None:
    """G-1: widths, kept channels and costs by trial; splits, seed, recipe, versions and convention once for all."""
    space, architecture = finished.plan.problem.space, finished.plan.architecture
    for trial in (t for t in finished.trials if t.arm in ("search", "uniform", "random", "final")):
        assert trial.outcome is not None
        widths, costs = space.widths(trial.candidate), cost(architecture, space.widths(trial.candidate))
        kept = trial.outcome.details["kept"]
        assert {name: len(kept.get(name, range(width))) for name, width in widths.items()} == widths
        assert all(units == sorted(set(units)) and units[-1] < architecture.group(n).units for n, units in kept.items())
        assert {name: trial.metrics[name] for name in ("macs", "flops", "params")} == {
            name: costs[name] for name in ("macs", "flops", "params")
        }
        assert trial.metrics["flops"] == 2 * trial.metrics["macs"]
        assert trial.origin or trial.arm in ("uniform", "random")
    made = finished.job.result
    assert made is not None
    assert len({made["splits"][name]["sha256"] for name in ("fit", "select", "report")}) == 3
    provenance = made["provenance"]
    assert provenance["versions"]["automl_prune"] == version("automl-prune")
    assert (provenance["seed"], provenance["preset"], provenance["convention"]) == (0, "corrected", CONVENTION)
    assert provenance["recipe"] == finished.plan.recipe.model_dump(mode="json")
    assert provenance["options"]["population"] == 3


def test_what_was_spent_is_what_the_recipe_says(finished: Finished) -> None:
    """G-10: images by arm from the order's own numbers, and sums of sums."""
    sizes = {name: part["size"] for name, part in finished.plan.images.describe().items() if isinstance(part, dict)}
    epoch = sizes["fit"] // 64 * 64
    candidate, recovered = 4 * 64 + sizes["select"], 3 * epoch + sizes["select"]
    expected = {
        "preparation": (1, 12 * epoch),
        "base": (1, sizes["select"]),
        "search": (9, 9 * candidate),
        "uniform": (1, candidate),
        "random": (9, 9 * candidate),
        "final": (5, 5 * (candidate + recovered)),
        "report": (4, 7 * sizes["report"]),
    }
    assert finished.job.result is not None
    spent = finished.job.result["provenance"]["search_cost"]
    assert {arm: (row["evaluations"], row["images"]) for arm, row in spent["by_arm"].items()} == expected
    for kind in ("evaluations", "images", "seconds", "cpu_seconds"):
        assert spent[kind] == pytest.approx(sum(row[kind] for row in spent["by_arm"].values()))
    taken = [t.outcome.cost for t in finished.trials if t.outcome]
    assert spent["seconds"] == pytest.approx(sum(c["seconds"] for c in taken))
    assert all(c["cpu_seconds"] > 0 and c["seconds"] > 0 for c in taken)
    assert spent["seconds"] < spent["wall_seconds"]


def test_the_result_says_what_the_executor_took(finished: Finished) -> None:
    """Of all stored trials, whichever driver they had; what was evaluated is none of it."""
    assert finished.job.result is not None
    spent = finished.job.result["provenance"]["search_cost"]
    stored = finished.store.trials(finished.job.id)
    busy = sum((t.ended_at - t.started_at).total_seconds() for t in stored if t.ended_at and t.started_at)
    executor = spent["executor"]
    assert (executor["kind"], executor["workers"], executor["trials"]) == ("inline", 1, len(stored))
    assert executor["overhead_seconds"] == pytest.approx(busy - spent["seconds"], abs=0.01)
    assert 0 <= executor["median_overhead_seconds"] <= executor["overhead_seconds"] < spent["wall_seconds"]


def test_a_standstill_is_the_reason_until_it_is_over(finished: Finished, tmp_path: Path) -> None:
    class Waiting(InlineExecutor):
        def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
            for reason in ("waiting for a worker: 1 CPU asked", None):
                source.stand_still(reason)
                (current,) = store.list_searches()
                told.append((current.state, current.state_reason))
            cancel.set()
            while not source.stopping:
                time.sleep(0.01)

    store, cancel, told = MemoryStore(), threading.Event(), list[tuple[SearchState, str | None]]()
    store.add_search(ORDER, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    assert run_search(finished.plan, job, store, Waiting(), tmp_path, cancel=cancel).state is SearchState.CANCELLED
    assert told == [
        (SearchState.PREPARING, "waiting for a worker: 1 CPU asked"),
        (SearchState.PREPARING, "training what the search needs"),
    ]


def test_every_candidate_meets_every_budget(finished: Finished) -> None:
    candidates = [t.candidate for t in finished.trials if t.arm in ("search", "uniform", "random", "final")]
    assert all(finished.plan.problem.is_feasible(c) and c in finished.plan.problem.space for c in candidates)


def test_the_network_is_rebuilt_and_scores_as_reported(finished: Finished) -> None:
    result = json.loads((finished.artifacts / "architecture.json").read_text())
    small = load_architecture(finished.artifacts / "architecture.json")
    assert sum(p.numel() for p in small.parameters()) == result["metrics"]["params"]
    for layer, width in result["channels"].items():
        assert small.get_parameter(f"{layer}.weight").shape[0] == width
    top1 = score(small, finished.plan.images.report())["top1"]
    assert top1 == pytest.approx(result["metrics"]["top1"], abs=1e-9)


def test_an_equal_candidate_gets_an_equal_score(finished: Finished) -> None:
    evaluate = CandidateEvaluator(finished.plan.setup(finished.artifacts))
    searched = next(t for t in finished.trials if t.arm == "search")
    again = evaluate(Trial(999, searched.candidate))
    assert again.metrics == pytest.approx(dict(searched.metrics))
    assert again.details["kept"] == (searched.outcome.details["kept"] if searched.outcome else None)


def test_the_report_split_is_read_by_report_trials_alone(finished: Finished) -> None:
    """By the images counted: select and recalibration for candidates; report twice (before, after) for reported networks."""
    sizes = finished.plan.images.describe()
    searched = next(t for t in finished.trials if t.arm == "search")
    reported = next(t for t in finished.trials if t.arm == "report" and t.origin["arm"] == "search")
    assert searched.outcome is not None
    assert reported.outcome is not None
    assert searched.outcome.cost["images"] == sizes["select"]["size"] + 4 * 64
    assert reported.outcome.cost["images"] == 2 * sizes["report"]["size"]


def test_the_trained_base_is_used_again(finished: Finished, tmp_path: Path) -> None:
    evaluate = CandidateEvaluator(finished.plan.setup(tmp_path))
    outcome = evaluate(Trial(0, finished.plan.problem.space.full, arm="preparation"))
    assert outcome.details == {"trained": False}
    assert (tmp_path / "base.safetensors").is_file()


def test_a_base_of_another_precision_library_or_architecture_is_another(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = finished.plan.setup(tmp_path)
    coarse = setup.recipe.model_copy(update={"precision": "bfloat16"})
    changed = replace(setup.architecture, layers=setup.architecture.layers[:-1])
    setups = [setup, replace(setup, recipe=coarse), replace(setup, architecture=changed)]
    ids = [CandidateEvaluator(s)._order_id for s in setups]
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert len({*ids, CandidateEvaluator(setup)._order_id}) == 4


def test_what_is_no_architecture_is_refused(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="schema_version None; this package reads version 1"):
        load_architecture(tmp_path / "a.json")
    (tmp_path / "b.json").write_text((finished.artifacts / "architecture.json").read_text())
    with pytest.raises(WeightsError, match=r"no file model\.safetensors"):
        load_architecture(tmp_path / "b.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_architecture(tmp_path / "missing.json")


def test_candidates_from_scratch_and_by_the_published_rule(finished: Finished, tmp_path: Path) -> None:
    for recipe in ({"inherit": "scratch", "fine_tune": {"steps": 2}}, {"inherit": "random", "scope": "convolutions"}):
        spec = SearchSpec.parse(ORDER | {"recipe": recipe})
        plan = make_plan(spec, finished.plan.roots)
        outcome = CandidateEvaluator(plan.setup(finished.artifacts))(Trial(0, plan.problem.widest_uniform))
        assert outcome.state is TrialState.COMPLETE
        assert 0 <= outcome.metrics["top1"] <= 1


def test_equal_networks_have_equal_weights_whatever_was_drawn_before(finished: Finished) -> None:
    setup = finished.plan.setup(finished.artifacts)
    first = CandidateEvaluator(setup).base.state_dict()
    torch.rand(17)
    second = CandidateEvaluator(setup).base.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
