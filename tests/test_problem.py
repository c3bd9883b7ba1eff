from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.errors import BudgetError
from automl_prune.problem import Budget, Objective, Problem, best_trials
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies.base import MEASURES, STRATEGIES
from automl_prune.testing.strategy import run_toy, toy_problem
from tests.jagged import jagged_cost, jagged_problem

TOY = toy_problem(groups=5, width=12, budget=None)
FULL = TOY.costs(TOY.space.full)["macs"]


def with_budgets(*budgets: Budget) -> Problem:
    return Problem(TOY.space, TOY.cost, TOY.objectives, budgets)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=5, max_size=5), st.floats(0.05, 1.0), st.booleans())
def test_fitting_meets_the_maximum_and_wastes_little(widths: list[int], share: float, grow: bool) -> None:
    problem = with_budgets(Budget("macs", max=share * FULL))
    fitted = problem.fit(Candidate(tuple(widths)), grow=grow)
    assert fitted in problem.space
    assert problem.is_feasible(fitted)
    if problem.is_feasible(Candidate(tuple(widths))) and not grow:
        assert fitted.widths == tuple(widths)


def test_the_widest_uniform_cannot_be_widened() -> None:
    problem = with_budgets(Budget("macs", max=0.5 * FULL))
    uniform = problem.widest_uniform
    assert len(set(uniform.widths)) == 1
    assert not problem.is_feasible(Candidate(tuple(w + 1 for w in uniform.widths)))


def test_lower_bounds_count_too() -> None:
    problem = with_budgets(Budget("macs", max=0.5 * FULL, min=0.4 * FULL))
    assert not problem.is_feasible(TOY.space.narrowest)
    assert not problem.is_feasible(TOY.space.full)
    assert problem.is_feasible(problem.widest_uniform)


def test_unreachable_budgets_say_what_is_reachable() -> None:
    with pytest.raises(BudgetError, match="the narrowest network of this space costs 17") as caught:
        with_budgets(Budget("macs"), Budget("macs", max=10)).check_reachable()
    assert caught.value.pointer == "/budgets/1"
    with pytest.raises(BudgetError, match="the full network costs"):
        with_budgets(Budget("macs", min=2 * FULL)).check_reachable()
    with pytest.raises(BudgetError, match="at once"):
        with_budgets(Budget("macs", max=0.3 * FULL, min=0.4 * FULL)).check_reachable()


def test_the_best_are_distinct_feasible_and_in_order() -> None:
    problem = with_budgets(Budget("macs", max=0.5 * FULL))
    small, other, wide = Candidate((3,) * 5), Candidate((2,) * 5), TOY.space.full
    scored = [
        (small, {"top1": 0.7}),
        (wide, {"top1": 0.9}),
        (other, {"top1": 0.8}),
        (small, {"top1": 0.75}),
        (small, {"top1": 0.6}),
    ]
    assert best_trials(problem, scored, 3) == [2, 3]


def test_equal_scores_go_to_the_cheaper() -> None:
    scored = [(Candidate((3,) * 5), {"top1": 0.7}), (Candidate((2,) * 5), {"top1": 0.7})]
    assert best_trials(TOY, scored, 1) == [1]


def test_losses_follow_the_direction() -> None:
    problem = Problem(TOY.space, TOY.cost, (Objective("top1"), Objective("loss", maximize=False)))
    assert problem.losses({"top1": 0.7, "loss": 0.2}) == [-0.7, 0.2]


def test_a_narrow_band_is_met_by_every_strategy() -> None:
    problem = with_budgets(Budget("macs", max=0.5 * FULL, min=0.49 * FULL))
    problem.check_reachable()
    for name in STRATEGIES:
        trials = run_toy(STRATEGIES.get(name).create(problem), 30)
        assert all(problem.is_feasible(t.candidate) or MEASURES in t.origin for t in trials), name


def test_budgets_that_exclude_each_other_are_refused() -> None:
    def cost(widths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
        return {"macs": widths.sum(axis=1).astype(float), "params": widths.sum(axis=1).astype(float)}

    problem = Problem(TOY.space, cost, TOY.objectives, (Budget("macs", max=20), Budget("params", min=40)))
    with pytest.raises(BudgetError, match="brought into all budgets at once"):
        problem.check_reachable()


# Costs that do not grow with widths


@pytest.mark.parametrize("grow", [False, True])
def test_where_costs_do_not_grow_no_larger_factor_fits(grow: bool) -> None:
    rng = np.random.default_rng(0)
    problem = jagged_problem(groups=3, width=32, budget=0.3)
    for _ in range(10):
        drawn = Candidate(tuple(rng.integers(1, 33, size=3).tolist()))
        fitted = problem.fit(drawn, grow=grow)
        assert problem.is_feasible(fitted)
        factors = np.linspace(0, 32 / min(drawn.widths) if grow else 1, 50_001)[:, None]
        scaled = problem.space.snap_all(factors * np.array(drawn.widths))
        widest = scaled[np.flatnonzero(problem.feasible(scaled))[-1]]
        assert fitted.widths == tuple(widest.tolist())
        if problem.is_feasible(drawn) and not grow:
            assert fitted == drawn


def test_where_the_narrowest_is_not_the_cheapest_the_budget_is_reached_all_the_same() -> None:
    problem = jagged_problem(groups=3, width=32, least=15)  # 16 is cheaper than 15
    cheapest = problem.costs(Candidate((16, 16, 16)))["ms"]
    assert problem.costs(problem.space.narrowest)["ms"] > 1.5 * cheapest
    exact = Problem(problem.space, jagged_cost, problem.objectives, (Budget("ms", max=cheapest, grows=False),))
    exact.check_reachable()
    assert exact.fit(problem.space.full).widths == exact.fit(Candidate((20, 31, 17))).widths == (16, 16, 16)
    below = Problem(problem.space, jagged_cost, problem.objectives, (Budget("ms", max=0.99 * cheapest, grows=False),))
    with pytest.raises(BudgetError, match="cheapest network that was found costs"):
        below.check_reachable()


def test_every_strategy_keeps_to_budgets_on_costs_that_do_not_grow() -> None:
    for problem in (jagged_problem(budget=0.4, floor=0.35), jagged_problem(budget=0.28, least=15)):
        for name in STRATEGIES:
            trials = run_toy(STRATEGIES.get(name).create(problem, trials=21), 21)
            assert all(problem.is_feasible(t.candidate) or MEASURES in t.origin for t in trials), name
            assert any(problem.is_feasible(t.candidate) for t in trials), name


def test_what_was_measured_decides_about_scored_candidates() -> None:
    """Costs foretell 1600 for the second, which takes 900."""

    def cost(widths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
        wide = widths[:, 0].astype(np.float64)
        return {"ms": 100 * wide * wide, "macs": wide}

    small, large = Candidate((2,)), Candidate((4,))
    budget = Budget("ms", max=1000)
    foretold = Problem(ChannelSpace(("a",), ((2, 4),)), cost, budgets=(budget,))
    limit = Budget("ms", max=500, measured=budget)
    measured = replace(foretold, budgets=(limit, Budget("macs", max=4)))
    scored = [(small, {"top1": 0.5, "ms": 400.0}), (large, {"top1": 0.6, "ms": 900.0})]
    assert best_trials(foretold, scored, 1) == [0]
    assert best_trials(measured, scored, 1) == [1]
    assert best_trials(measured, [(small, {"top1": 0.5, "ms": 1001.0})], 1) == []
    assert best_trials(replace(measured, budgets=(limit, Budget("macs", max=3))), scored, 1) == [0]
    assert not measured.meets(large, {"top1": 0.6})
