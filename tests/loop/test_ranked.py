"""The control ``global``: one ranking of all channels, cut from below until the budget is met."""

from collections.abc import Mapping

import numpy as np
import pytest

from automl_prune.loop.ranked import ranked_widths
from automl_prune.problem import Budget, FloatArray, IntArray, Problem
from automl_prune.space import ChannelSpace
from automl_prune.testing.strategy import toy_problem
from tests.jagged import jagged_problem


def summed(choices: tuple[tuple[int, ...], ...], most: float, least: float = 0.0) -> Problem:
    """Every channel costs 1."""

    def cost(widths: IntArray) -> Mapping[str, FloatArray]:
        return {"macs": widths.sum(axis=1).astype(float)}

    space = ChannelSpace(tuple(f"g{i}" for i in range(len(choices))), choices)
    return Problem(space, cost, budgets=(Budget("macs", max=most, min=least),))


def every(width: int) -> tuple[int, ...]:
    return tuple(range(1, width + 1))


def test_the_least_important_go_first_whatever_their_group() -> None:
    problem = summed((every(4), every(3)), 4)
    found = ranked_widths(problem, {"g0": [0.9, 0.1, 1.2, 0.2], "g1": [1.0, 0.3, 1.1]})
    assert found.widths == (2, 2)
    assert ranked_widths(summed((every(4), every(3)), 7), {"g0": [1, 1, 1, 1], "g1": [1, 1, 1]}).widths == (4, 3)


def test_no_group_falls_below_its_minimum() -> None:
    problem = summed(((2, 3, 4), every(4)), 4)
    assert ranked_widths(problem, {"g0": [0.1, 0.2, 0.3, 0.4], "g1": [1.0, 2.0, 3.0, 4.0]}).widths == (2, 2)


def test_widths_are_choices_and_units_may_be_several_channels() -> None:
    problem = summed(((4, 8, 12, 16), (2, 4)), 14)
    found = ranked_widths(problem, {"g0": (np.arange(8) / 10).tolist(), "g1": [5.0, 6.0]})  # units of two channels
    assert found in problem.space
    assert found.widths == (8, 4)


def test_a_missed_minimum_widens_again() -> None:
    problem = summed(((1, 10), every(4)), 9, 4)
    found = ranked_widths(problem, {"g0": [0.1] * 10, "g1": [1.0, 2.0, 3.0, 4.0]})
    assert problem.is_feasible(found)


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.7, 1.0])
def test_it_meets_any_budget_and_wastes_little(budget: float) -> None:
    problem = toy_problem(groups=6, width=32, budget=budget)
    rng = np.random.default_rng(1)
    importance = {name: rng.gamma(4, size=32).tolist() for name in problem.space.names}
    found = ranked_widths(problem, importance)
    assert problem.is_feasible(found)
    ordered = sorted((s, name) for name, scores in importance.items() for s in scores)
    cut = sum(32 - w for w in found.widths)
    expected = {name: 32 - sum(n == name for _, n in ordered[:cut]) for name in importance}
    assert problem.space.widths(found) == {name: max(1, width) for name, width in expected.items()}
    if cut:
        one_less = {name: 32 - sum(n == name for _, n in ordered[: cut - 1]) for name in importance}
        assert not problem.is_feasible(problem.space.candidate({n: max(1, w) for n, w in one_less.items()}))


@pytest.mark.parametrize(("budget", "least"), [(0.2, 1), (0.6, 1), (0.295, 15)])
def test_where_costs_do_not_grow_no_network_of_fewer_cuts_fits(budget: float, least: int) -> None:
    problem = jagged_problem(groups=3, width=32, budget=budget, least=least)
    rng = np.random.default_rng(2)
    importance = {name: rng.gamma(4, size=32).tolist() for name in problem.space.names}
    found = ranked_widths(problem, importance)
    assert problem.is_feasible(found)
    scores = np.concatenate([importance[name] for name in problem.space.names])
    group = np.repeat(np.arange(3), 32)[np.argsort(scores)]
    fewer = [problem.space.snap((32.0 - np.bincount(group[:cuts], minlength=3)).tolist()) for cuts in range(97)]
    fitting = [c for c in fewer if problem.is_feasible(c)]
    assert found == fitting[0] if fitting else found.widths == (16, 16, 16)
