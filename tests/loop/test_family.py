"""A whole search that hands weights on: winners stay and are said, losers' files go, and a killed driver is continued."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.scoring import score
from automl_prune.evaluation.weights import fit, load_state_dict_file
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.space import Candidate
from automl_prune.storage.memory import MemoryStore
from automl_prune.surgery.slicing import materialise
from automl_prune.trial import Outcome, Trial, TrialState

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 4, "frozen": ["layer1.*"]},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "netadapt", "options": {"initial_reduction": 0.2, "groups": "all"}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"fine_tune": {"steps": 2}},
    "base_training": {"epochs": 6},
    "controls": ["uniform", "global"],
    "trials": {"max": 40},
    "finish": {"top_k": 1, "epochs": 1},
    "execution": "inline",
}


class Killed(BaseException):
    """Ends a driver at once, as a signal would."""


class Run:
    """A search, driven to its end by as many drivers as it takes: each but the last dies after so many trials."""

    def __init__(self, folder: Path, *deaths: int, order: dict[str, Any] = ORDER) -> None:
        self.artifacts = folder / "artifacts"
        self.plan: Plan = make_plan(SearchSpec.parse(order), Roots(folder / "data", folder / "weights", folder / "cache"))
        self.store = MemoryStore()
        self.store.add_search(order, name=None, labels={})
        self.most_files = 0
        for death in (*deaths, None):
            job = self.store.claim(lease_seconds=600)
            assert job is not None
            try:
                self.job: SearchJob = self._drive(job, death)
            except Killed:
                self.store.release(job.id, job.attempt, reason="killed")
        self.trials = [t.trial for t in self.store.trials(self.job.id)]

    def _drive(self, job: SearchJob, death: int | None) -> SearchJob:
        count = 0

        def told(trial: Trial) -> None:
            nonlocal count
            count += 1
            self.most_files = max(
                self.most_files, len(self.files()) - len(self.store.get_search(job.id).info.get("family", ()))
            )
            if count == death:
                raise Killed

        return run_search(self.plan, job, self.store, InlineExecutor(), self.artifacts, on_trial=told)

    def files(self) -> set[int]:
        """Numbers of searched trials whose weights are on disk."""
        searched = {t.trial.name: t.trial.number for t in self.store.trials(self.store.list_searches()[0].id, arm=SEARCH)}
        return {searched[f.stem] for f in self.artifacts.glob("trial-*.safetensors") if f.stem in searched}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("family"))


def test_the_family_is_said_kept_and_served(run: Run) -> None:
    assert run.job.state is SearchState.SUCCEEDED
    assert run.job.result is not None
    family = run.job.result["family"]
    numbers = [row["trial"] for row in family]
    assert run.job.info["family"] == numbers
    assert len(numbers) >= 3
    costs = [row["metrics"]["macs"] for row in family]
    assert costs == sorted(set(costs), reverse=True)
    assert costs[-1] <= 0.5 * run.job.result["base_metrics"]["macs"] < costs[-2]
    assert run.files() == set(numbers)
    served = {a.name: a for a in run.store.artifacts(run.job.id)}
    assert {row["weights"] for row in family} < set(served)


def test_every_network_of_the_family_can_be_loaded_and_scores_as_it_did(run: Run) -> None:
    assert run.job.result is not None
    evaluate = CandidateEvaluator(run.plan.setup(run.artifacts))
    for row in json.loads((run.artifacts / "architecture.json").read_text())["family"]:
        model = materialise(evaluate.base, run.plan.architecture, row["kept"])
        fit(model, load_state_dict_file(run.artifacts / row["weights"]))
        assert score(model.eval(), run.plan.images.select())["top1"] == row["metrics"]["top1"]
        assert {g: len(u) for g, u in row["kept"].items()} == {
            g: w for g, w in row["widths"].items() if w < run.plan.architecture.group(g).width
        }


def test_children_start_from_their_parents_weights(run: Run) -> None:
    """Made again without training, a child has exactly its parent's weights where it has its parent's channels."""
    untrained = make_plan(SearchSpec.parse({**ORDER, "recipe": {"fine_tune": {"steps": 0}}}), run.plan.roots)
    evaluate = CandidateEvaluator(untrained.setup(run.artifacts))
    second = next(t for t in run.trials if t.arm == SEARCH and t.parent is not None)
    model, kept = evaluate._make(second)
    parent = load_state_dict_file(run.artifacts / f"trial-{second.parent:04d}.safetensors")
    assert torch.equal(model.state_dict()["linear.weight"], parent["linear.weight"])
    assert not torch.equal(model.state_dict()["linear.weight"], evaluate.base.state_dict()["linear.weight"])
    assert second.outcome is not None
    assert kept == second.outcome.details["kept"]


def test_files_of_losers_are_bounded_by_one_iteration(run: Run) -> None:
    groups = len(run.plan.problem.space)
    assert 1 < run.most_files <= groups


def test_the_finalist_is_made_again_from_the_same_parent(run: Run) -> None:
    final = next(t for t in run.trials if t.arm == "final" and t.origin["arm"] == SEARCH)
    searched = run.trials[final.origin["of"]]
    assert final.parent == searched.parent
    assert final.outcome is not None
    assert final.outcome.details["before"] == dict(searched.metrics)


def test_the_global_control_is_scored_recovered_and_reported(run: Run) -> None:
    assert run.job.result is not None
    assert set(run.job.result["controls"]) == {"uniform", "global"}
    control = [t for t in run.trials if t.arm == "global"]
    assert [t.state for t in control] == [TrialState.COMPLETE]
    assert run.plan.problem.is_feasible(control[0].candidate)
    assert run.job.result["controls"]["global"]["trial"] == control[0].number
    base = next(t for t in run.trials if t.arm == BASE)
    assert base.outcome is not None
    importance = base.outcome.details["importance"]
    assert {n: len(s) for n, s in importance.items()} == dict(
        zip(run.plan.problem.space.names, run.plan.problem.space.full.widths, strict=True)
    )


def test_an_iteration_costs_one_evaluation_for_each_group_that_can_meet_its_target(run: Run) -> None:
    """G-10, as section 8 has it: groups x iterations, each the short-term fine-tuning and a look at the select split."""
    searched, problem = [t for t in run.trials if t.arm == SEARCH], run.plan.problem
    expected = 0
    for iteration in range(1, max(t.origin["iteration"] for t in searched) + 1):
        one = next(t for t in searched if t.origin["iteration"] == iteration)
        start = problem.space.full if one.parent is None else run.trials[one.parent].candidate
        for group, choices in enumerate(problem.space.choices):
            cuts = [(*start.widths[:group], w, *start.widths[group + 1 :]) for w in choices if w < start.widths[group]]
            expected += any(problem.costs(Candidate(cut))["macs"] < one.origin["targets"]["macs"] for cut in cuts)
    assert len(searched) == expected
    each = 64 * (run.plan.recipe.recalibrate_batches + 2) + 300
    assert {t.outcome.cost["images"] for t in searched if t.outcome} == {each}
    assert run.job.result is not None
    spent = run.job.result["provenance"]["search_cost"]["by_arm"]["search"]
    assert (spent["evaluations"], spent["images"]) == (expected, expected * each)


def test_killed_drivers_are_continued_with_the_same_winners(run: Run, tmp_path: Path) -> None:
    again = Run(tmp_path, 4, 6, 7)
    assert again.job.attempt == 4
    assert again.job.result is not None
    assert run.job.result is not None
    assert again.job.result["family"] == run.job.result["family"]
    assert again.files() == run.files()


def test_a_trial_that_fails_after_it_was_trained_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CandidateEvaluator._scored

    def breaking(self: CandidateEvaluator, *given: Any) -> dict[str, float]:
        if given[2].arm == SEARCH and given[2].number % 3 == 0:
            raise RuntimeError("the disk of the data is gone")
        return whole(self, *given)

    monkeypatch.setattr(CandidateEvaluator, "_scored", breaking)
    run = Run(tmp_path)
    failed = [t for t in run.trials if t.arm == SEARCH and t.state is TrialState.FAILED]
    assert failed
    assert run.job.result is not None, run.job.state_reason
    assert run.files() == {row["trial"] for row in run.job.result["family"]}


def test_lost_weights_fail_the_trial_and_are_never_replaced(run: Run, tmp_path: Path) -> None:
    evaluate = CandidateEvaluator(run.plan.setup(tmp_path))
    (tmp_path / "base.safetensors").write_bytes((run.artifacts / "base.safetensors").read_bytes())
    child = next(t for t in run.trials if t.arm == SEARCH and t.parent is not None)
    outcomes: list[Outcome] = []

    class Source:
        finished = stopping = False
        trial: Trial | None = child

        def next(self) -> Trial | None:
            self.finished, given, self.trial = self.trial is None, self.trial, None
            return given

        def retry(self, trial: Trial, cause: str) -> Trial:
            raise AssertionError(cause)

        def complete(self, trial: Trial, outcome: Outcome) -> None:
            outcomes.append(outcome)

        def stand_still(self, reason: str | None) -> None:
            raise AssertionError(reason)

    InlineExecutor().run(Source(), lambda: evaluate)
    assert [o.state for o in outcomes] == [TrialState.FAILED]
    assert f"trial-{child.parent:04d}.safetensors" in str(outcomes[0].reason)
    assert not (tmp_path / f"{child.name}.safetensors").exists()


def test_a_family_cut_from_the_full_network_leaves_no_weights_but_says_what_it_kept(tmp_path: Path) -> None:
    order = {**ORDER, "recipe": {"inherit": "l1", "recalibrate_batches": 1}, "controls": [], "trials": {"max": 24}}
    run = Run(tmp_path, order={**order, "finish": {"top_k": 1, "recovery": "none"}})
    assert run.job.result is not None
    family = run.job.result["family"]
    assert {row["weights"] for row in family} == {None}
    assert all(row["kept"] for row in family[1:])
