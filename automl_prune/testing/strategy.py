"""What every strategy promises, as tests: subclass StrategyContract and give one fixture."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from automl_prune.problem import Budget, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies.base import MEASURES, Proposal, Strategy
from automl_prune.trial import Outcome, Trial, TrialState

MakeStrategy = Callable[[Problem, int], Strategy]


def toy_problem(groups: int = 8, width: int = 16, *, budget: float | None = 0.5) -> Problem:
    """A chain of ``groups`` layers of ``width`` channels whose cost is the sum of products of neighbouring widths."""
    names = tuple(f"layer{g}" for g in range(groups))
    space = ChannelSpace(names, tuple(tuple(range(1, width + 1)) for _ in names))

    def cost(widths: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.ones((len(widths), 1))
        padded = np.concatenate([3 * ends, widths.astype(float), 10 * ends], axis=1)
        return {"macs": (padded[:, 1:] * padded[:, :-1]).sum(axis=1)}

    full = float(cost(space.array([space.full]))["macs"][0])
    budgets = () if budget is None else (Budget("macs", max=budget * full),)
    return Problem(space, cost, (Objective("top1"),), budgets)


def toy_score(problem: Problem, candidate: Candidate, *, seed: int = 0) -> float:
    """A separable score in [0.5, 0.9]: each group saturates at its own rate, so uniform widths are not the best."""
    rng = np.random.default_rng(seed)
    full = np.asarray(problem.space.full.widths, dtype=float)
    power, weight = rng.uniform(0.5, 4.0, len(full)), rng.dirichlet(np.ones(len(full)))
    lost = weight * (1 - np.asarray(candidate.widths) / full) ** power
    return float(0.9 - 0.4 * lost.sum())


def told(proposal: Proposal, number: int, outcome: Outcome) -> Trial:
    """The trial a controller would tell for a proposal."""
    trial = Trial(number, proposal.candidate, origin=proposal.origin, parent=proposal.parent, repaired=proposal.repaired)
    return trial.with_outcome(outcome)


def run_toy(strategy: Strategy, evaluations: int, *, seed: int = 0, first: int = 0) -> list[Trial]:
    """Drive a strategy on its toy problem, one trial at a time; trials are numbered from ``first``."""
    trials: list[Trial] = []
    while len(trials) < evaluations and not strategy.finished:
        proposal = strategy.ask()
        if proposal is None:
            assert strategy.finished, "ask returned None with nothing in flight"
            break
        score = toy_score(strategy.problem, proposal.candidate, seed=seed)
        trials.append(told(proposal, first + len(trials), Outcome(TrialState.COMPLETE, {"top1": score})))
        strategy.tell(trials[-1])
    return trials


@cache
def _best_at_random(evaluations: int, seed: int) -> float:
    """The best score of so many random draws."""
    from automl_prune.strategies.random import RandomOptions, RandomSearch

    drawn = run_toy(RandomSearch(toy_problem(), RandomOptions(), seed=seed), evaluations, seed=seed)
    return max(t.metrics["top1"] for t in drawn)


class StrategyContract:
    """Subclass it with a fixture ``make_strategy`` that maps (problem, seed) to a strategy.

    ``evaluations`` is how many trials the tests spend, ``learning_evaluations`` how many it needs to beat random search;
    ``learns`` is False for strategies that ignore what they are told, ``chance`` for those that no seed changes. A candidate
    may lie outside the budgets only where its origin declares a measurement.
    """

    evaluations = 60
    learning_evaluations = 300
    learns = True
    chance = True

    def test_every_ask_lies_in_the_space_and_in_the_budget(self, make_strategy: MakeStrategy) -> None:
        problem = toy_problem()
        trials = run_toy(make_strategy(problem, 0), self.evaluations)
        assert trials
        assert all(t.candidate in problem.space for t in trials)
        assert all(problem.is_feasible(t.candidate) or MEASURES in t.origin for t in trials)

    def test_same_seed_same_asks(self, make_strategy: MakeStrategy) -> None:
        first, second = (run_toy(make_strategy(toy_problem(), 7), self.evaluations) for _ in range(2))
        assert [t.candidate for t in first] == [t.candidate for t in second]

    def test_seed_matters_where_chance_does(self, make_strategy: MakeStrategy) -> None:
        first, second = (run_toy(make_strategy(toy_problem(), seed), self.evaluations) for seed in (1, 2))
        differ = [t.candidate for t in first] != [t.candidate for t in second]
        assert len(first) == 1 or differ == self.chance

    @pytest.mark.parametrize("after", [0, 1, 5, 17, 40])
    def test_restored_through_json_asks_the_same(self, make_strategy: MakeStrategy, after: int) -> None:
        problem = toy_problem()
        original = make_strategy(problem, 3)
        done = len(run_toy(original, after))
        restored = self._restored(original, make_strategy(problem, 3))
        expected, actual = run_toy(original, 25, first=done), run_toy(restored, 25, first=done)
        assert expected == actual

    @pytest.mark.parametrize("after", [0, 52])
    def test_restored_with_trials_in_flight_asks_the_same(self, make_strategy: MakeStrategy, after: int) -> None:
        problem = toy_problem()
        original = make_strategy(problem, 4)
        done = len(run_toy(original, after))
        flying = [p for p in (original.ask() for _ in range(3)) if p is not None]
        restored = self._restored(original, make_strategy(problem, 4))
        one_more = original.ask()
        assert restored.ask() == one_more
        flying += [one_more] if one_more is not None else []
        for strategy in (original, restored):
            for number, proposal in enumerate(flying, start=done):
                strategy.tell(told(proposal, number, self._scored(problem, proposal)))
        done += len(flying)
        assert run_toy(original, 20, first=done) == run_toy(restored, 20, first=done)

    def test_trials_may_come_back_in_any_order_and_fail(self, make_strategy: MakeStrategy) -> None:
        problem = toy_problem()
        strategy, rng = make_strategy(problem, 5), np.random.default_rng(5)
        flying: list[tuple[int, Proposal]] = []
        number = 0
        while number < self.evaluations and not strategy.finished:
            proposal = strategy.ask()
            if proposal is not None:
                flying.append((number, proposal))
                number += 1
            if flying and (proposal is None or len(flying) >= 4):
                ended, back = flying.pop(int(rng.integers(len(flying))))
                strategy.tell(told(back, ended, self._any_outcome(problem, back.candidate, rng)))
            else:
                assert proposal is not None or strategy.finished, "waits with nothing in flight"
        assert number

    def test_lost_trials_do_not_break_it(self, make_strategy: MakeStrategy) -> None:
        strategy = make_strategy(toy_problem(), 6)
        asked = [strategy.ask() for _ in range(5)]
        for number, proposal in enumerate(p for p in asked[1:] if p is not None):
            strategy.tell(told(proposal, number, Outcome(TrialState.CANCELLED)))
        if asked[0] is not None:
            strategy.tell(told(asked[0], 99, Outcome.failed("worker lost")))
        assert strategy.finished or strategy.ask() is not None

    def test_trials_that_are_never_told_hold_up_no_more_than_a_barrier(self, make_strategy: MakeStrategy) -> None:
        """Of every third comes neither score nor end; it may wait for them, and goes on when they come at last."""
        problem = toy_problem()
        strategy = make_strategy(problem, 9)
        silent: list[tuple[int, Proposal]] = []
        number = 0
        while number < self.evaluations // 2 and (proposal := strategy.ask()) is not None:
            assert proposal.candidate in problem.space
            assert problem.is_feasible(proposal.candidate) or MEASURES in proposal.origin
            if number % 3 == 1:
                silent.append((number, proposal))
            else:
                strategy.tell(told(proposal, number, self._scored(problem, proposal)))
            number += 1
        assert number
        restored = self._restored(strategy, make_strategy(problem, 9))
        for waiting in (strategy, restored):
            for late, proposal in silent:
                waiting.tell(told(proposal, late, self._scored(problem, proposal)))
        going_on = run_toy(strategy, 5, first=number)
        assert going_on or strategy.finished
        assert run_toy(restored, 5, first=number) == going_on

    def test_tells_of_strangers_are_survived(self, make_strategy: MakeStrategy) -> None:
        strategy = make_strategy(toy_problem(), 8)
        stranger = Trial(1234, strategy.problem.space.narrowest).with_outcome(Outcome(TrialState.COMPLETE, {"top1": 0.6}))
        strategy.tell(stranger)
        strategy.tell(replace(stranger, origin={"phase": "elsewhere", "cycle": 9, "bee": 0, "code": [1] * 8}))
        assert strategy.ask() is not None

    def test_beats_random_at_equal_evaluations(self, make_strategy: MakeStrategy) -> None:
        """Median of the best score over ten seeds, against random draws at the same budget."""
        if not self.learns:
            pytest.skip("does not learn")
        problem = toy_problem()
        ours, random = [], []
        for seed in range(10):
            trials = run_toy(make_strategy(problem, seed), self.learning_evaluations, seed=seed)
            ours.append(max(t.metrics["top1"] for t in trials))
            random.append(_best_at_random(len(trials), seed))
        assert np.median(ours) > np.median(random)

    def _restored(self, original: Strategy, other: Strategy) -> Strategy:
        """``other``, as new, in the state of ``original`` after a way through bytes."""
        other.load_state_dict(json.loads(json.dumps(original.state_dict(), allow_nan=False).encode()))
        return other

    def _scored(self, problem: Problem, proposal: Proposal) -> Outcome:
        return Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, proposal.candidate)})

    def _any_outcome(self, problem: Problem, candidate: Candidate, rng: np.random.Generator) -> Outcome:
        state = rng.choice(["complete", "complete", "complete", "failed", "cancelled", "stopped", "infeasible"])
        metrics = {"top1": toy_score(problem, candidate)} if state in ("complete", "stopped") else {}
        return Outcome(TrialState(state), metrics, reason=None if metrics else str(state))
