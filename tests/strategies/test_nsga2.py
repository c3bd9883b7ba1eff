"""NSGA-II: its sort, its crowding, the front it keeps, and its power in hypervolume."""

import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from automl_prune.errors import BudgetError, SpecError, UnknownNameError
from automl_prune.pareto import crowding, hypervolume, non_dominated, ranks
from automl_prune.problem import Objective, Problem
from automl_prune.space import ChannelSpace
from automl_prune.strategies._genetics import Member
from automl_prune.strategies.base import Proposal
from automl_prune.strategies.nsga2 import NSGA2
from automl_prune.strategies.random import RandomOptions, RandomSearch
from automl_prune.testing.strategy import run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState


def nsga2(problem: Problem, *, seed: int = 0, preset: str = "modern", **options: Any) -> NSGA2:
    made = NSGA2.create(problem, seed=seed, preset=preset, options=options)
    assert isinstance(made, NSGA2)
    return made


def losses(problem: Problem, trials: list[Trial], *costs: str) -> npt.NDArray[np.float64]:
    """Losses of trials, costs last, ``[trials, losses]``."""
    return np.array([[-t.metrics["top1"], *(problem.costs(t.candidate)[c] for c in costs)] for t in trials])


def volume(problem: Problem, trials: list[Trial]) -> float:
    """Area dominated between the full network's half cost and a score of 0.5, of 0.25 in all."""
    full = problem.costs(problem.space.full)["macs"]
    return hypervolume(losses(problem, trials, "macs") / [1, full], [-0.5, 0.5])


def two_costs() -> Problem:
    """The toy with parameters beside its multiply-adds, where early groups have larger maps."""
    toy = toy_problem()

    def cost(widths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
        return {"macs": toy.cost(widths)["macs"], "params": (widths * np.arange(1, widths.shape[1] + 1)).sum(axis=1) * 1.0}

    return Problem(toy.space, cost, toy.objectives, toy.budgets)


# Crowding and selection


@pytest.mark.parametrize("seed", range(5))
def test_survivors_are_the_best_fronts_and_the_least_crowded_of_the_last(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.random((60, 2)).round(2)
    members = [Member(i, (i,), tuple(row)) for i, row in enumerate(drawn.tolist())]
    kept = nsga2(toy_problem(), population=20).select(members)
    rank = ranks(drawn)
    assert len(kept) == 20
    assert [rank[m.ask] for m in kept] == sorted(rank.tolist())[:20]
    last = rank[kept[-1].ask]
    front = np.flatnonzero(rank == last)
    distance = dict(zip(front.tolist(), crowding(drawn[front]).tolist(), strict=True))
    chosen = {m.ask for m in kept} & set(front.tolist())
    assert min(distance[i] for i in chosen) >= max([distance[i] for i in set(front.tolist()) - chosen], default=0)


def test_parents_are_winners_of_tournaments() -> None:
    """With 20 survivors a tournament is won by the first with chance 1 - (19/20)^2, by the last with (1/20)^2."""
    strategy = nsga2(toy_problem(), leaders=0)
    run_toy(strategy, 40)
    _, parents = strategy.breed("child", np.random.default_rng(0), 20_000)
    wins = np.bincount(parents.ravel(), minlength=20) / parents.size
    assert wins == pytest.approx([(39 - 2 * place) / 400 for place in range(20)], abs=0.005)


# The front


@pytest.mark.parametrize("costs", [("macs",), ("macs", "params")])
@pytest.mark.parametrize("preset", NSGA2.presets)
def test_the_front_is_everything_never_dominated(preset: str, costs: tuple[str, ...]) -> None:
    problem = two_costs()
    strategy = nsga2(problem, preset=preset, costs=costs, population=10)
    trials = run_toy(strategy, 250)
    told_losses = losses(problem, trials, *costs)
    expected = [t.number for t, keep in zip(trials, non_dominated(told_losses).tolist(), strict=True) if keep]
    assert [m.ask for m in strategy.front] == expected
    assert len(expected) > 10
    assert [m.losses for m in strategy.front] == [tuple(told_losses[i].tolist()) for i in expected]


def test_objectives_of_the_problem_are_losses_in_their_direction() -> None:
    toy = toy_problem()
    problem = Problem(toy.space, toy.cost, (Objective("top1"), Objective("latency_ms", maximize=False)), toy.budgets)
    strategy = nsga2(problem, costs=("macs",))
    first, second, third = (proposal for proposal in (strategy.ask() for _ in range(3)) if proposal is not None)
    strategy.tell(told(first, 0, Outcome(TrialState.COMPLETE, {"top1": 0.5, "latency_ms": 3.0})))
    strategy.tell(told(second, 1, Outcome(TrialState.COMPLETE, {"top1": 0.9})))
    strategy.tell(told(third, 2, Outcome(TrialState.STOPPED, {"top1": 0.9, "latency_ms": 0.1})))
    assert [m.losses for m in strategy.front] == [(-0.5, 3.0, problem.costs(first.candidate)["macs"])]


def test_without_costs_and_with_one_objective_only_the_best_is_on_the_front() -> None:
    strategy = nsga2(toy_problem(), costs=())
    trials = run_toy(strategy, 100)
    assert {m.losses for m in strategy.front} == {(-max(t.metrics["top1"] for t in trials),)}


# Power


@pytest.mark.parametrize(("preset", "evaluations"), [("modern", 200), ("published", 400)])
def test_it_covers_more_than_random_search(preset: str, evaluations: int) -> None:
    """Random draws are only scaled down, as scaled up to the budget they would cover far less."""
    problem, wins = toy_problem(20, 32), []
    for seed in range(3):
        ours = run_toy(nsga2(problem, seed=seed, preset=preset), evaluations, seed=seed)
        control = run_toy(RandomSearch(problem, RandomOptions(fill=False), seed=seed), evaluations, seed=seed)
        wins.append(volume(problem, ours) - volume(problem, control))
    assert min(wins) > 0


def test_leaders_search_at_the_budget_and_cost_little_of_the_front() -> None:
    problem, top1, covered = toy_problem(), [], []
    for seed in range(5):
        pair = [run_toy(nsga2(problem, seed=seed, leaders=part), 200, seed=seed) for part in (0.5, 0.0)]
        top1.append([max(t.metrics["top1"] for t in trials) for trials in pair])
        covered.append([volume(problem, trials) for trials in pair])
        leaders = [t for t in pair[0] if t.origin["operator"] == "leader"]
        assert np.median([problem.costs(t.candidate)["macs"] for t in leaders]) > 0.95 * problem.budgets[0].max
    assert np.median(top1, axis=0)[0] > np.median(top1, axis=0)[1]
    assert np.mean(covered, axis=0)[0] > 0.95 * np.mean(covered, axis=0)[1]


# The conversation


@pytest.mark.parametrize("preset", NSGA2.presets)
def test_nothing_twice_and_all_within_the_budget(preset: str) -> None:
    problem = toy_problem()
    trials = run_toy(nsga2(problem, preset=preset), 500)
    assert len({t.candidate for t in trials}) == len(trials) == 500
    assert all(problem.is_feasible(t.candidate) and t.candidate in problem.space for t in trials)


@pytest.mark.parametrize("preset", NSGA2.presets)
def test_the_order_of_tells_changes_nothing(preset: str) -> None:
    problem = toy_problem()
    first, second = (nsga2(problem, seed=2, preset=preset, population=12) for _ in range(2))
    for _ in range(5):
        for strategy, backwards in ((first, False), (second, True)):
            flying: list[Proposal] = list(iter(strategy.ask, None))
            for proposal in reversed(flying) if backwards else flying:
                score = toy_score(problem, proposal.candidate)
                strategy.tell(told(proposal, 0, Outcome(TrialState.COMPLETE, {"top1": score})))
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize("after", [13, 77])
def test_a_resumed_run_goes_on_the_same_and_keeps_its_front(after: int) -> None:
    problem = two_costs()
    first, second = (nsga2(problem, seed=3, costs=("params", "macs")) for _ in range(2))
    run_toy(first, after)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False).encode()))
    ahead = [run_toy(strategy, 100) for strategy in (first, second)]
    assert [(t.candidate, t.origin) for t in ahead[0]] == [(t.candidate, t.origin) for t in ahead[1]]
    assert first.front == second.front


def test_thinking_stays_short() -> None:
    """A thousand trials of 50 groups of 64 widths with two losses: milliseconds each."""
    problem = toy_problem(50, 64)
    for preset in NSGA2.presets:
        strategy = nsga2(problem, preset=preset)
        spent = -time.process_time()
        trials = run_toy(strategy, 1000)
        spent += time.process_time()
        assert len(trials) == 1000
        assert spent / 1000 < 0.01


# Options


def test_a_cost_that_nothing_counts_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"No cost metric is called 'params'; .*known: macs") as caught:
        nsga2(toy_problem(), costs=("macs", "params"))
    assert caught.value.pointer == "/strategy/options/costs/1"


def test_a_cost_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="each cost is minimised once, and macs came more often") as twice:
        nsga2(toy_problem(), costs=("macs", "macs"))
    assert [e.pointer for e in twice.value.errors] == ["/strategy/options/costs"]


def test_options_out_of_range_and_impossible_budgets_are_refused() -> None:
    with pytest.raises(SpecError, match="/strategy/options/leaders"):
        nsga2(toy_problem(), leaders=1.5)
    with pytest.raises(BudgetError, match="cannot be reached"):
        nsga2(toy_problem(budget=0.001))


def test_published_numbers() -> None:
    options = nsga2(toy_problem(), preset="published").options
    assert (options.population, options.generations, options.crossover_rate, options.leaders) == (100, 250, 0.9, 0)
    space = ChannelSpace(tuple("abcd"), ((1, 2, 3, 4, 5, 6, 7, 8),) * 4)
    strategy = nsga2(Problem(space, lambda w: {"macs": w.sum(axis=1) * 1.0}), preset="published")
    genes = np.full((20_000, 4), 3)
    assert (strategy.mutate(np.random.default_rng(0), genes) != genes).mean() == pytest.approx(1 / 4, abs=0.01)
