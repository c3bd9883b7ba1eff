"""Looks at a network in training: when, what they cost, and that they change nothing."""

from pathlib import Path
from typing import Any

import pytest

from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.glances import marks
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.trial import Glance, Trial, TrialState

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"inherit": "scratch", "recalibrate_batches": 0, "fine_tune": {"steps": 8, "lr": 0.1}},
}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, {}), (1, {}), (2, {1: 4}), (3, {1: 2, 2: 4}), (8, {1: 1, 2: 2, 4: 4}), (100, {13: 1, 25: 2, 50: 4})],
)
def test_a_training_is_looked_at_after_an_eighth_a_quarter_and_a_half(steps: int, expected: dict[int, int]) -> None:
    assert marks(steps) == expected


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory: pytest.TempPathFactory) -> CandidateEvaluator:
    folder = tmp_path_factory.mktemp("glances")
    plan = make_plan(SearchSpec.parse(ORDER), Roots(folder, folder, folder))
    return CandidateEvaluator(plan.setup(folder))


def trial(evaluate: CandidateEvaluator, arm: str = "search") -> Trial:
    return Trial(7, evaluate.setup.space.narrowest, arm=arm)


def test_what_is_looked_at_scores_the_same(evaluate: CandidateEvaluator) -> None:
    seen: list[Glance] = []

    def go_on(glance: Glance) -> bool:
        seen.append(glance)
        return True

    plain, watched = evaluate(trial(evaluate)), evaluate(trial(evaluate), go_on)
    assert watched.metrics == plain.metrics
    assert [glance.eighths for glance in seen] == [1, 2, 4]
    assert watched.details["reported"] == [{"eighths": g.eighths, **g.scores} for g in seen]
    assert watched.cost["images"] == plain.cost["images"] + 3 * 256
    assert seen[-1].outcome.cost["images"] == 5 * 64 + 3 * 256, "the next batch is drawn already"


def test_a_stopped_trial_trains_no_further_and_has_no_metrics(evaluate: CandidateEvaluator) -> None:
    outcome = evaluate(trial(evaluate), lambda glance: glance.eighths < 2)
    assert (outcome.state, dict(outcome.metrics)) == (TrialState.STOPPED, {})
    assert outcome.cost["images"] == 3 * 64 + 2 * 256
    assert [row["eighths"] for row in outcome.details["reported"]] == [1, 2]
    assert "Stopped early" in (outcome.reason or "")


def test_controls_are_never_stopped(evaluate: CandidateEvaluator, tmp_path: Path) -> None:
    outcome = evaluate(trial(evaluate, "random"), lambda glance: False)
    assert outcome.state is TrialState.COMPLETE
    assert "reported" not in outcome.details
