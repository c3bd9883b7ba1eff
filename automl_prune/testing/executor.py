"""ExecutorContract: what every executor promises, as tests to subclass, and the source they pull trials from."""

import math
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from automl_prune.errors import EvaluationError
from automl_prune.loop.ports import Executor
from automl_prune.space import Candidate
from automl_prune.trial import Evaluator, Outcome, Trial, TrialState


class ExecutorContract:
    """Subclass and give the fixture ``executor``: a fresh one, with two workers if it has workers.

    Attributes:
        has_workers: Whether trials are evaluated in processes of their own: then they overlap, are abandoned when the
            source stops, and survive the death of their worker.
    """

    has_workers: ClassVar[bool] = True

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test."""
        raise NotImplementedError("Give the contract a fixture called executor.")

    def test_trials_overlap_and_each_completes_exactly_once(self, executor: Executor, tmp_path: Path) -> None:
        source, marks = ScriptedSource(8), tmp_path / "built"
        marks.mkdir()
        executor.run(source, partial(build, MeetAnother(tmp_path, patience=120 if self.has_workers else 0), marks))
        assert sorted(trial.number for trial, _ in source.completed) == list(range(8))
        for trial, outcome in source.completed:
            assert (outcome.state, outcome.metrics["number"]) == (TrialState.COMPLETE, trial.number)
            assert outcome.cost["seconds"] >= 0
            assert outcome.cost["cpu_seconds"] == 7.0, "a cost that the evaluator gives is kept"
            assert outcome.metrics["met"] == 1.0 or not self.has_workers, "trial 0 waits for trial 1"
        built = len(list(marks.iterdir()))
        assert 1 <= built <= (2 if self.has_workers else 1), "evaluators are built once per worker, not per trial"

    def test_a_finished_source_needs_no_evaluator(self, executor: Executor, tmp_path: Path) -> None:
        executor.run(ScriptedSource(0), partial(build, score, tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_bad_evaluations_fail_with_their_reason(self, executor: Executor) -> None:
        source = ScriptedSource(len(MISBEHAVIOUR) + 1, generation=1)
        executor.run(source, partial(build, misbehave))
        outcomes = {trial.number: outcome for trial, outcome in source.completed}
        for number, (_, reason) in enumerate(MISBEHAVIOUR):
            assert outcomes[number].state is TrialState.FAILED
            assert reason in (outcomes[number].reason or "")
            assert "\n" not in (outcomes[number].reason or "")
            assert not outcomes[number].metrics
        assert outcomes[len(MISBEHAVIOUR)].state is TrialState.COMPLETE

    def test_a_source_may_have_nothing_for_a_while(self, executor: Executor) -> None:
        source = ScriptedSource(6, generation=1, silent=0.5)
        began = time.monotonic()
        executor.run(source, partial(build, score))
        assert sorted(trial.number for trial, _ in source.completed) == list(range(6))
        assert source.asked_in_vain <= 40 * (time.monotonic() - began), "asking without a pause keeps a processor busy"

    def test_stopping_ends_the_run_and_cancels_what_is_in_flight(self, executor: Executor, tmp_path: Path) -> None:
        source = ScriptedSource(100, stop=lambda: len(list(tmp_path.iterdir())) >= 2)
        executor.run(source, partial(build, SleepLong(tmp_path, 60.0 if self.has_workers else 0.0)))
        assert source.stopped_at is not None
        assert time.monotonic() - source.stopped_at < 50
        assert len(source.completed) == source.handed_out == 2
        expected = TrialState.CANCELLED if self.has_workers else TrialState.COMPLETE
        assert {outcome.state for _, outcome in source.completed} == {expected}

    def test_an_evaluator_that_cannot_be_built_ends_the_run(self, executor: Executor, tmp_path: Path) -> None:
        source = ScriptedSource(100, generation=1)
        with pytest.raises(EvaluationError, match="no data set here"):
            executor.run(source, partial(build_nothing, tmp_path))
        assert 1 <= len(list(tmp_path.iterdir())) <= 2
        assert len(source.completed) == source.handed_out
        assert all(outcome.state is TrialState.CANCELLED for _, outcome in source.completed)

    def test_an_error_of_the_source_ends_the_run_and_comes_through(self, executor: Executor) -> None:
        source = ScriptedSource(100, generation=1, refuse_after=2)
        with pytest.raises(SourceClosedError):
            executor.run(source, partial(build, score))
        assert len(source.completed) == 2

    def test_a_dead_worker_costs_an_attempt(self, executor: Executor) -> None:
        if not self.has_workers:
            pytest.skip("its only worker is this process")
        source = ScriptedSource(3, generation=1)
        executor.run(source, partial(build, Die(until_attempt=2)))
        assert [(trial.number, trial.attempt) for trial, _ in source.completed] == [(0, 1), (1, 2), (2, 1)]
        assert {outcome.state for _, outcome in source.completed} == {TrialState.COMPLETE}
        assert [outcome.metrics["attempt"] for _, outcome in source.completed] == [1.0, 2.0, 1.0]
        assert [number for number, _ in source.losses] == [1], "the source hears of it, once"


class SourceClosedError(Exception):
    """The source takes no more outcomes, as a store does whose search another driver took over."""


class ScriptedSource:
    """A TrialSource that hands out ``count`` numbered trials and remembers what came back.

    Args:
        count: How many there are.
        generation: Trials that must all be back before the next one goes out; 0 for no such barrier.
        silent: Seconds after the first question in which it has nothing to hand out.
        stop: Asked whether it is stopping.
        refuse_after: Outcomes after which it raises SourceClosedError.
    """

    def __init__(
        self,
        count: int,
        *,
        generation: int = 0,
        silent: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        refuse_after: float = math.inf,
    ) -> None:
        self.count, self.generation, self.silent, self.stop = count, generation, silent, stop
        self.refuse_after = refuse_after
        self.handed_out = self.asked_in_vain = 0
        self.completed: list[tuple[Trial, Outcome]] = []
        self.losses: list[tuple[int, str]] = []
        self.standstills: list[str | None] = []
        self.stopped_at: float | None = None
        self._asked_at: float | None = None

    def next(self) -> Trial | None:
        """The next trial in order, unless the script says to wait."""
        self._asked_at = self._asked_at or time.monotonic()
        waiting = self.generation and self.handed_out - len(self.completed) > 0 == self.handed_out % self.generation
        if self.finished or waiting or time.monotonic() - self._asked_at < self.silent:
            self.asked_in_vain += 1
            return None
        self.handed_out += 1
        number = self.handed_out - 1
        return Trial(number, Candidate((number + 1, 8)), origin={"asked": [number]})

    def retry(self, trial: Trial, cause: str) -> Trial:
        """The trial, one attempt later; remembers why."""
        self.losses.append((trial.number, cause))
        return replace(trial, attempt=trial.attempt + 1)

    def complete(self, trial: Trial, outcome: Outcome) -> None:
        """Remember the outcome."""
        if len(self.completed) >= self.refuse_after:
            raise SourceClosedError(f"{trial.name} came after the end.")
        self.completed.append((trial, outcome))

    def stand_still(self, reason: str | None) -> None:
        """Remember the reason."""
        self.standstills.append(reason)

    @property
    def finished(self) -> bool:
        """Whether all are handed out."""
        return self.handed_out >= self.count

    @property
    def stopping(self) -> bool:
        """Whether the script says so; ``stopped_at`` is when it first did."""
        if self.stop():
            self.stopped_at = self.stopped_at or time.monotonic()
        return self.stopped_at is not None


def build(evaluator: Evaluator, marks: Path | None = None) -> Evaluator:
    """A factory once its arguments are bound; leaves a file in ``marks`` for every call."""
    if marks:
        (marks / uuid.uuid4().hex).touch()
    return evaluator


def build_nothing(marks: Path) -> Evaluator:
    """A factory that raises; leaves a file in ``marks`` for every call."""
    (marks / uuid.uuid4().hex).touch()
    raise RuntimeError("no data set here")


def score(trial: Trial) -> Outcome:
    """The trial's number as its metric, if the trial arrived as it was sent."""
    if trial.candidate.widths != (trial.number + 1, 8) or trial.origin != {"asked": [trial.number]}:
        raise ValueError(f"{trial} is not what was sent.")
    return Outcome(TrialState.COMPLETE, {"number": float(trial.number)}, cost={"cpu_seconds": 7.0})


@dataclass(frozen=True)
class MeetAnother:
    """Scores, and says whether another trial has begun by then."""

    folder: Path
    patience: float

    def __call__(self, trial: Trial) -> Outcome:
        """Wait for a second trial to begin, with patience in seconds."""
        (self.folder / trial.name).touch()
        give_up = time.monotonic() + self.patience
        while (met := len(list(self.folder.glob("trial-*"))) >= 2) is False and time.monotonic() < give_up:
            time.sleep(0.02)
        scored = score(trial)
        return replace(scored, metrics={**scored.metrics, "met": float(met)})


@dataclass(frozen=True)
class SleepLong:
    """Leaves a file per trial, then sleeps."""

    folder: Path
    seconds: float

    def __call__(self, trial: Trial) -> Outcome:
        """Sleep."""
        (self.folder / trial.name).touch()
        time.sleep(self.seconds)
        return Outcome(TrialState.COMPLETE)


def _raise(error: Exception) -> Outcome:
    raise error


MISBEHAVIOUR: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: _raise(ValueError("layer1.conv\nhas no channels")), "ValueError: layer1.conv has no channels"),
    (lambda: Outcome(TrialState.COMPLETE, {"top1": 0.5, "loss": math.nan}), "loss is nan"),
    (lambda: Outcome(TrialState.COMPLETE, {"top1": 0.5}, cost={"images": math.inf}), "images is inf"),
    (lambda: Outcome(TrialState.RUNNING), "'running'"),
    (lambda: {"top1": 0.5}, "returned dict"),
    (lambda: Outcome(TrialState.COMPLETE, {"top1": 0.5}, details={"model": object()}), "not JSON serializable"),
)
"""What an evaluator can do wrong, and what the reason must say."""


def misbehave(trial: Trial) -> Outcome:
    """By the trial's number: each misbehaviour in turn, then nothing wrong."""
    if trial.number == len(MISBEHAVIOUR):
        return Outcome(TrialState.COMPLETE)
    return MISBEHAVIOUR[trial.number][0]()  # type: ignore[return-value]  # that is the misbehaviour


@dataclass(frozen=True)
class Die:
    """In the attempts before ``until_attempt`` trial 1 ends its process: by exit, then by a signal."""

    until_attempt: int

    def __call__(self, trial: Trial) -> Outcome:
        """Die or report the attempt."""
        if trial.number == 1 and trial.attempt < self.until_attempt:
            if trial.attempt == 1:
                os._exit(1)
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(TrialState.COMPLETE, {"attempt": float(trial.attempt)})
