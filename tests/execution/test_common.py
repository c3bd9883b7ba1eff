import math

import numpy as np
import pytest

from automl_prune.execution.common import Losses, clip, evaluate_safely, sentence, threads
from automl_prune.space import Candidate
from automl_prune.testing.executor import ScriptedSource
from automl_prune.trial import Outcome, Trial, TrialState

TRIAL = Trial(7, Candidate((8,)))


def test_cost_is_measured_unless_it_was_given() -> None:
    outcome = evaluate_safely(lambda trial: Outcome(TrialState.COMPLETE, cost={"seconds": 3.0}), TRIAL)
    assert outcome.cost["seconds"] == 3.0
    assert 0 <= outcome.cost["cpu_seconds"] < 1


def test_numbers_of_any_make_become_plain_floats() -> None:
    outcome = evaluate_safely(lambda trial: Outcome(TrialState.COMPLETE, {"top1": np.float64(0.5)}), TRIAL)
    assert type(outcome.metrics["top1"]) is float


def test_an_end_other_than_complete_is_kept() -> None:
    outcome = evaluate_safely(lambda trial: Outcome(TrialState.INFEASIBLE, reason="over budget"), TRIAL)
    assert (outcome.state, outcome.reason) == (TrialState.INFEASIBLE, "over budget")


def test_a_failed_outcome_keeps_its_reason_over_that_of_its_metrics() -> None:
    outcome = evaluate_safely(lambda trial: Outcome(TrialState.FAILED, {"loss": math.nan}, reason="diverged"), TRIAL)
    assert (outcome.state, outcome.reason) == (TrialState.FAILED, "diverged")


def test_the_traceback_is_logged_and_not_in_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    outcome = evaluate_safely(lambda trial: Outcome(TrialState.COMPLETE, {"top1": 1 / 0}), TRIAL)
    assert outcome.reason == "ZeroDivisionError: division by zero"
    assert "trial-0007 failed." in caplog.text
    assert "Traceback" in caplog.text


def test_a_lost_worker_is_another_attempt_until_there_were_enough() -> None:
    source = ScriptedSource(9)
    losses = Losses(source, most=3)
    second = losses.after(TRIAL, "out of memory")
    assert second == Trial(7, Candidate((8,)), attempt=2)
    assert losses.after(Trial(8, Candidate((8,)), attempt=4), "gone") == Trial(8, Candidate((8,)), attempt=5)
    third = losses.after(Trial(7, Candidate((8,)), attempt=2), "out of memory")
    assert third == Trial(7, Candidate((8,)), attempt=3)
    assert losses.after(Trial(7, Candidate((8,)), attempt=3), "gone") == Outcome.failed("3 attempts, last worker died: gone")
    assert source.losses == [(7, "out of memory"), (8, "gone"), (7, "out of memory")]


def test_reasons_are_one_line_of_bounded_length() -> None:
    assert sentence(ValueError("a\n  b")) == "ValueError: a b"
    assert sentence(ValueError()) == "ValueError"
    assert len(clip("x" * 1000)) == 300


@pytest.mark.parametrize(("cpu", "expected"), [(0.25, 1), (1, 1), (2.5, 2), (8, 8)])
def test_threads(cpu: float, expected: int) -> None:
    assert threads(cpu) == expected
