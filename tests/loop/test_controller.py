"""The loop: every trial once, every arm in order, and after a crash at any trial the same next asks."""

import re
from collections.abc import Sequence

import pytest

from automl_prune.errors import EvaluationError, LeaseLostError
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.arms import plan_arms
from automl_prune.loop.controller import Controller
from automl_prune.loop.job import SearchJob
from automl_prune.loop.ports import Store
from automl_prune.problem import Problem
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.testing.strategy import toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState

PROBLEM = toy_problem()


def claimed(store: Store) -> SearchJob:
    store.add_search({"strategy": {"name": "abc"}}, name=None, labels={})
    job = store.claim(lease_seconds=60)
    assert job is not None
    return job


def control(
    store: Store,
    job: SearchJob,
    *,
    trials: int = 24,
    controls: Sequence[str] = ("uniform", "random"),
    problem: Problem = PROBLEM,
) -> Controller:
    def make() -> Strategy:
        return STRATEGIES.get("abc").create(problem, seed=5, options={"population": 4})

    arms = plan_arms(
        problem,
        make,
        max_trials=trials,
        controls=controls,
        top_k=2,
        train_base=False,
        seed=5,
    )
    return Controller(store, job.id, job.attempt, problem, arms)


def outcome(trial: Trial) -> Outcome:
    details: dict[str, object] = {"before": {}} if trial.arm in ("final", "report") else {}
    return Outcome(TrialState.COMPLETE, {"top1": toy_score(PROBLEM, trial.candidate)}, details=details)


def finish(controller: Controller, limit: int | None = None) -> list[Trial]:
    """Evaluate trials one at a time, at most ``limit``; returns what was evaluated."""
    evaluated: list[Trial] = []
    while not controller.finished and (limit is None or len(evaluated) < limit):
        trial = controller.next()
        if trial is None:
            assert controller.finished, "nothing in flight, nothing to do, and not finished"
            break
        evaluated.append(trial)
        controller.complete(trial, outcome(trial))
    return evaluated


def test_arms_follow_each_other_and_numbers_count_up() -> None:
    store = MemoryStore()
    evaluated = finish(control(store, claimed(store)))
    arms = [t.arm for t in evaluated]
    assert list(dict.fromkeys(arms)) == ["base", "search", "uniform", "random", "final", "report"]
    assert (arms.count("search"), arms.count("random"), arms.count("final"), arms.count("report")) == (24, 24, 5, 4)
    assert [t.number for t in evaluated] == list(range(len(evaluated)))


def test_no_controls_when_switched_off() -> None:
    store = MemoryStore()
    evaluated = finish(control(store, claimed(store), controls=()))
    assert {t.arm for t in evaluated} == {"base", "search", "final", "report"}


def test_finalists_are_the_best_of_each_arm() -> None:
    store = MemoryStore()
    evaluated = finish(control(store, claimed(store)))
    for arm, count in (("search", 2), ("uniform", 1), ("random", 2)):
        scored = sorted((toy_score(PROBLEM, t.candidate) for t in evaluated if t.arm == arm), reverse=True)
        finals = [toy_score(PROBLEM, t.candidate) for t in evaluated if t.arm == "final" and t.origin["arm"] == arm]
        assert len(finals) == count
        assert finals[0] == scored[0]


UNDISTURBED: list[Trial] = []


def undisturbed() -> list[Trial]:
    if not UNDISTURBED:
        store = MemoryStore()
        UNDISTURBED.extend(finish(control(store, claimed(store))))
    return UNDISTURBED


@pytest.mark.parametrize("after", [0, 1, 2, 5, 13, 25, 26, 27, 40, 52, 55])
@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_killed_driver_is_continued_with_the_same_asks(after: int, in_flight: int) -> None:
    store = MemoryStore()
    job = claimed(store)
    first = control(store, job)
    done = finish(first, after)
    flying = [t for t in (first.next() for _ in range(in_flight)) if t is not None]
    store.release(job.id, job.attempt, reason="killed")
    again = store.claim(lease_seconds=60)
    assert again is not None
    rest = finish(control(store, again))
    assert {t.number for t in done}.isdisjoint(t.number for t in rest), "a finished trial was evaluated again"
    assert [(t.number, t.attempt) for t in rest[: len(flying)]] == [(t.number, 2) for t in flying]
    by_number = {t.number: t.candidate for t in [*done, *rest]}
    assert by_number == {t.number: t.candidate for t in undisturbed()}


def test_snapshots_are_farther_apart_the_more_there_is_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl_prune.loop.controller.SNAPSHOT_EVERY", 3)
    monkeypatch.setattr("automl_prune.loop.controller.SNAPSHOT_PART", 2)
    store, written = MemoryStore(), []
    controller = control(store, claimed(store), trials=30, controls=())
    monkeypatch.setattr(store, "save_snapshot", lambda *_: written.append(len(controller.history)))
    finish(controller, 30)
    assert written == [3, 6, 11, 21]


def test_a_snapshot_covers_what_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl_prune.loop.controller.SNAPSHOT_EVERY", 7)
    store = MemoryStore()
    job = claimed(store)
    done = finish(control(store, job), 33)
    snapshot = store.get_search(job.id).snapshot
    assert snapshot is not None
    assert snapshot["sequence"] > 0
    store.release(job.id, job.attempt, reason="killed")
    again = store.claim(lease_seconds=60)
    assert again is not None
    by_number = {t.number: t.candidate for t in [*done, *finish(control(store, again))]}
    assert by_number == {t.number: t.candidate for t in undisturbed()}


def test_a_superseded_driver_can_write_nothing() -> None:
    store = MemoryStore()
    job = claimed(store)
    old = control(store, job)
    trial = old.next()
    assert trial is not None
    store.release(job.id, job.attempt, reason="thought dead")
    assert store.claim(lease_seconds=60) is not None
    with pytest.raises(LeaseLostError):
        old.complete(trial, outcome(trial))


def test_a_second_outcome_is_ignored() -> None:
    store = MemoryStore()
    controller = control(store, claimed(store))
    trial = controller.next()
    assert trial is not None
    controller.complete(trial, outcome(trial))
    controller.complete(trial, Outcome.failed("late"))
    assert controller.history[0].state is TrialState.COMPLETE


def test_a_lost_worker_is_recorded_as_another_attempt() -> None:
    store = MemoryStore()
    job = claimed(store)
    controller = control(store, job)
    trial = controller.next()
    assert trial is not None
    again = controller.retry(trial, "killed")
    assert (again.number, again.attempt, again.candidate) == (trial.number, 2, trial.candidate)
    assert store.trial(job.id, trial.number).trial.attempt == 2
    controller.complete(again, outcome(again))
    assert [t.number for t in controller.history] == [trial.number]


class Raising:
    """Fails every trial of the search arm whose first group is narrow."""

    def __call__(self, trial: Trial) -> Outcome:
        if trial.arm == "search" and trial.number % 2:
            raise RuntimeError("boom")
        if trial.arm == "search" and trial.number % 3 == 0:
            return Outcome(TrialState.COMPLETE, {"top1": float("nan")})
        return outcome(trial)


def test_candidates_that_raise_or_are_nan_fail_alone() -> None:
    store = MemoryStore()
    controller = control(store, claimed(store))
    InlineExecutor().run(controller, Raising)
    controller.raise_failure()
    searched = [t for t in controller.history if t.arm == "search"]
    reasons = {t.outcome.reason for t in searched if t.outcome and t.state is TrialState.FAILED}
    assert reasons == {"RuntimeError: boom", "Not a finite number: top1 is nan."}
    assert any(t.state is TrialState.COMPLETE for t in searched)
    assert {t.arm for t in controller.history} >= {"final", "report"}


def always_raising(trial: Trial) -> Outcome:
    if trial.arm == "search":
        raise RuntimeError("out of memory")
    return outcome(trial)


def test_a_search_without_any_success_gives_up_with_the_reason() -> None:
    store = MemoryStore()
    controller = control(store, claimed(store), trials=40)
    InlineExecutor().run(controller, lambda: always_raising)
    with pytest.raises(EvaluationError, match="All of the first 10 trials failed; the last: RuntimeError: out of memory"):
        controller.raise_failure()


def test_a_failing_base_network_ends_the_search() -> None:
    store = MemoryStore()
    controller = control(store, claimed(store))
    trial = controller.next()
    assert trial is not None
    controller.complete(trial, Outcome.failed("no images"))
    assert controller.finished
    with pytest.raises(EvaluationError, match=r"trial-0000 \(base\) failed: no images"):
        controller.raise_failure()


def test_cancel_hands_out_nothing_more() -> None:
    store = MemoryStore()
    controller = control(store, claimed(store))
    finish(controller, 3)
    controller.cancel()
    assert controller.next() is None
    assert controller.finished
    assert controller.stopping


def test_time_is_up_for_the_search_arm_and_controls_get_as_many() -> None:
    store = MemoryStore()
    job = claimed(store)
    count = [0]
    arms = plan_arms(
        PROBLEM,
        lambda: STRATEGIES.get("random").create(PROBLEM),
        max_trials=1000,
        controls=("random",),
        top_k=1,
        train_base=False,
        seed=0,
    )
    controller = Controller(
        store, job.id, job.attempt, PROBLEM, arms, on_trial=lambda t: count.__setitem__(0, count[0] + 1),
        out_of_time=lambda: count[0] >= 9,
    )  # fmt: skip
    arms_seen = [t.arm for t in finish(controller)]
    assert arms_seen.count("search") == arms_seen.count("random") == 8


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("netadapt", {}, r"netadapt was in iteration 2 of about \d+ and needs about \d+ to \d+ further .* \(it is 0\.05\)"),
        (
            "sensitivity",
            {"explore": False},
            r"macs is 1776, to be from 0 to 1000.*Raise trials\.max_seconds or trials\.max\.$",
        ),
    ],
)
def test_a_search_that_ends_before_its_budgets_says_how_far_they_are(
    name: str, options: dict[str, object], said: str
) -> None:
    store = MemoryStore()
    job = claimed(store)
    arms = plan_arms(
        PROBLEM,
        lambda: STRATEGIES.get(name).create(PROBLEM, trials=100, options=options),
        max_trials=100,
        controls=("uniform", "random"),
        top_k=1,
        train_base=False,
        seed=0,
    )
    controller = Controller(store, job.id, job.attempt, PROBLEM, arms, out_of_time=lambda: len(controller.history) > 9)
    finish(controller)
    assert {t.arm for t in controller.history} == {"base", "search", "uniform"}, "no time is lost on what cannot be compared"
    with pytest.raises(EvaluationError, match=r"ended it after \d scored trials, none of them within the budgets") as caught:
        controller.raise_failure()
    assert re.search(said, str(caught.value))
