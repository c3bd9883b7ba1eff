"""Fidelity of the bee colony: ABC-1 to ABC-8 and ABC-10 (inheritance, ABC-9, and the leak guard, ABC-11, are tested where
they live: tests/surgery/test_inherit.py and tests/loop/test_spec.py)."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.errors import SpecError, UnknownNameError
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NETWORKS
from automl_prune.problem import Objective, Problem
from automl_prune.space import ChannelSpace
from automl_prune.strategies.abc import BeeColony, neighbour, onlooker_probabilities, onlookers
from automl_prune.strategies.base import Proposal
from automl_prune.testing.strategy import run_toy, told, toy_problem
from automl_prune.trial import Outcome, TrialState


def tenths(groups: int, codes: int = 10) -> Problem:
    """A problem without budget whose groups take ``codes`` widths, so that codes and widths are the same numbers."""
    space = ChannelSpace(tuple(f"g{i}" for i in range(groups)), (tuple(range(1, codes + 1)),) * groups)
    return Problem(space, lambda w: {"macs": w.sum(axis=1).astype(float)}, (Objective("top1"),))


def colony(problem: Problem, *, seed: int = 0, preset: str = "corrected", **options: Any) -> BeeColony:
    made = BeeColony.create(problem, seed=seed, preset=preset, options=options)
    assert isinstance(made, BeeColony)
    return made


def fly(bees: BeeColony, score: Any, most: int = 10_000) -> list[Proposal]:
    """Drive a colony to its end with a score of the code."""
    asked: list[Proposal] = []
    while len(asked) < most and (proposal := bees.ask()) is not None:
        asked.append(proposal)
        value = score(proposal)
        outcome = Outcome.failed("no") if value is None else Outcome(TrialState.COMPLETE, {"top1": value})
        bees.tell(told(proposal, len(asked) - 1, outcome))
    return asked


def codes(asked: list[Proposal], phase: str | None = None) -> list[tuple[int, ...]]:
    return [tuple(p.origin["code"]) for p in asked if phase is None or p.origin["phase"] == phase]


# ABC-1: the space of codes


@pytest.mark.parametrize("top", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("preset", ["corrected", "published"])
def test_every_code_is_legal(top: int, preset: str) -> None:
    bees = colony(tenths(6), preset=preset, max_preserve=top, population=6, cycles=8)
    rng = np.random.default_rng(0)
    asked = fly(bees, lambda p: float(rng.random()))
    assert {v for code in codes(asked) for v in code} <= set(range(1, top + 1))


def test_initial_codes_are_uniform() -> None:
    drawn = [v for seed in range(100) for v in np.ravel(codes(fly(colony(tenths(10), seed=seed), lambda p: 0.5, 10)))]
    assert len(drawn) == 10_000
    assert chisquare(list(Counter(drawn).values())).pvalue > 0.01


@pytest.mark.parametrize(("preset", "moves"), [("corrected", True), ("published", False)])
def test_the_last_group_moves_only_where_it_is_corrected(preset: str, moves: bool) -> None:
    changed = False
    for seed in range(20):
        bees = colony(tenths(4), seed=seed, preset=preset, population=5, cycles=4, limit=10_000)
        rng = np.random.default_rng(seed)
        parents: dict[int, tuple[int, ...]] = {}
        for p in fly(bees, lambda p: float(rng.random())):  # noqa: B023
            parent = parents.get(p.origin["source"])
            changed |= (
                p.origin["phase"] in ("employed", "onlooker") and parent is not None and p.origin["code"][-1] != parent[-1]
            )
            parents[p.origin["source"]] = (
                tuple(p.origin["code"]) if p.origin["phase"] == "initial" else parents[p.origin["source"]]
            )
    assert changed == moves


def test_the_largest_code_occurs_among_employed_bees() -> None:
    rng = np.random.default_rng(0)
    asked = fly(colony(tenths(6), cycles=10), lambda p: float(rng.random()))
    assert any(10 in code for code in codes(asked, "employed"))


# ABC-2: widths of codes


def test_width_table_of_sixteen_channels() -> None:
    space = ChannelSpace(("g",), (tuple(range(1, 17)),))
    bees = colony(Problem(space, lambda w: {"macs": w[:, 0].astype(float)}))
    assert [bees.decode([v]).widths[0] for v in range(1, 11)] == [1, 3, 4, 6, 8, 9, 11, 12, 14, 16]


def test_resnet56_all_five_tenths() -> None:
    network = NETWORKS.get("resnet56")
    architecture = trace(network.build(10), np_zeros())
    space = ChannelSpace.of(architecture, frozen=network.preset("published").frozen)
    cost = CostModel(architecture, space.names)
    bees = colony(Problem(space, cost))
    assert cost(space.array([bees.decode([5] * 27)]))["macs"][0] == 62_964_352


def np_zeros() -> Any:
    import torch

    return torch.zeros(1, 3, 32, 32)


# ABC-3: the law of candidates


def test_a_partner_equal_to_the_parent_changes_nothing() -> None:
    assert neighbour((3, 7, 9), (3, 7, 9), [0, 1, 2], [0.9, -0.9, 0.3], top=10) == (3, 7, 9)


def test_candidates_span_the_difference_and_have_its_mean() -> None:
    steps = np.random.default_rng(0).uniform(-1, 1, 10_000)
    drawn = np.array([neighbour((9,), (1,), [0], [r], top=9)[0] for r in steps])
    assert set(drawn.tolist()) == set(range(1, 10))
    expected = np.clip(np.floor(9 + steps * 8 + 0.5), 1, 9).mean()
    assert drawn.mean() == pytest.approx(expected, abs=0.05)
    assert np.abs(drawn - 9).max() <= 8


def test_truncation_of_the_released_code_drifts_to_small_codes() -> None:
    steps = np.random.default_rng(0).uniform(-1, 1, 10_000)
    cut, rounded = (
        np.mean([neighbour((5,), (2,), [0], [r], top=9, truncate=t)[0] - 5 for r in steps]) for t in (True, False)
    )
    assert cut < -0.3
    assert abs(rounded) < 0.05


# ABC-4 and ABC-7: acceptance and the best


def test_sources_never_get_worse_between_scouts_and_ties_do_not_win() -> None:
    bees = colony(tenths(5), population=4, cycles=6, limit=10_000)
    rng = np.random.default_rng(3)
    last: list[float | None] = [None] * 4
    while (proposal := bees.ask()) is not None:
        bees.tell(told(proposal, 0, Outcome(TrialState.COMPLETE, {"top1": float(rng.choice([0.1, 0.5, 0.5, 0.9]))})))
        for j, source in enumerate(bees.sources):
            assert last[j] is None or (source.fitness is not None and source.fitness >= last[j])  # type: ignore[operator]
            last[j] = source.fitness


def test_equal_fitness_counts_as_a_failure() -> None:
    bees = colony(tenths(5), population=3, cycles=1)
    fly(bees, lambda p: 0.5)
    assert sum(s.failures for s in bees.sources) == 6


@pytest.mark.parametrize("preset", ["corrected", "published"])
def test_the_best_is_the_best_of_all_evaluations(preset: str) -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bees = colony(tenths(4), seed=seed, preset=preset, population=3, cycles=2)
        seen: list[tuple[float, tuple[int, ...]]] = []

        def score(p: Proposal, seen: Any = seen, rng: Any = rng) -> float:
            seen.append((float(rng.random()), tuple(p.origin["code"])))
            return float(seen[-1][0])

        fly(bees, score, 3)
        assert bees.best == max(seen)
        fly(bees, score)
        assert bees.best == max(seen)


# ABC-5: onlookers


def test_probabilities_by_hand() -> None:
    assert onlooker_probabilities([90, 45]) == [1.0, 0.55]
    assert onlooker_probabilities([7, 7, 7]) == [1.0, 1.0, 1.0]
    assert onlooker_probabilities([0.0, 0.0]) == [1.0, 1.0]
    assert onlooker_probabilities([None, None]) == [1.0, 1.0]
    assert onlooker_probabilities([0.5, None]) == [1.0, 0.1]


def test_exactly_n_onlookers_fly_and_good_sources_get_more() -> None:
    rng = np.random.default_rng(0)
    visits = [v for _ in range(300) for v in onlookers([1.0, 0.1, 0.1], rng)]
    assert len(visits) == 900
    assert visits.count(0) > 3 * visits.count(1)


# ABC-6: scouts


@pytest.mark.parametrize("preset", ["corrected", "published"])
def test_a_source_that_never_improves_is_abandoned_once_a_cycle(preset: str) -> None:
    bees = colony(tenths(5), preset=preset, population=4, cycles=6, limit=3)
    asked = fly(bees, lambda p: 0.9 if len(p.origin["code"]) and p.origin["phase"] == "initial" else 0.1)
    scouts = Counter(p.origin["cycle"] for p in asked if p.origin["phase"] == "scout")
    assert scouts
    assert set(scouts.values()) == {1}
    assert bees.best is not None
    assert bees.best[0] == 0.9


# ABC-8: how many evaluations


@pytest.mark.parametrize("seed", range(10))
def test_evaluations_of_the_paper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked = fly(colony(tenths(13, 8), seed=seed, preset="published", max_preserve=8), lambda p: float(rng.random()))
    assert 15 <= len(asked) <= 17
    assert len(asked) == 3 + 2 * 6 + len(codes(asked, "scout"))


@pytest.mark.parametrize(("population", "cycles"), [(4, 3), (10, 2)])
def test_evaluations_in_general(population: int, cycles: int) -> None:
    rng = np.random.default_rng(0)
    asked = fly(colony(tenths(6), population=population, cycles=cycles, limit=2), lambda p: float(rng.random()))
    assert len(asked) == population + cycles * 2 * population + len(codes(asked, "scout"))


def test_the_published_recipe_is_two_epochs_of_random_filters() -> None:
    recipe = BeeColony.recipe("published")
    assert (recipe["inherit"], recipe["scope"], recipe["fine_tune"]["epochs"]) == ("random", "convolutions", 2)


# ABC-10: power


@pytest.mark.parametrize("seeds", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_corrected_colony_beats_random_on_the_separable_toy(seeds: int) -> None:
    """13 groups of codes 1 … 8, fitness 50 … 90, n = 10, T = 50, M = 5."""
    wins, gains = 0, []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        target, scale = rng.integers(1, 9, 13), rng.uniform(0.5, 1.5, 13)

        def fitness(widths: Any, target: Any = target, scale: Any = scale) -> float:
            return float(90 - 40 * np.average(((np.asarray(widths) - target) / 7) ** 2, weights=scale))

        asked = fly(colony(tenths(13, 8), seed=seed, max_preserve=8), lambda p: fitness(p.origin["code"]))
        ours = max(fitness(code) for code in codes(asked))
        control = max(fitness(rng.integers(1, 9, 13)) for _ in range(len(asked)))
        wins += ours > control
        gains.append(ours - control)
    assert wins >= 0.95 * seeds
    assert np.mean(gains) >= 0.4


# Presets, options, order of tells


def test_a_phase_asks_the_same_in_whatever_order_it_was_told() -> None:
    problem = toy_problem()
    first, second = colony(problem, seed=9), colony(problem, seed=9)
    for step in range(6):
        for bees, backwards in ((first, False), (second, True)):
            flying = []
            while (proposal := bees.ask()) is not None:
                flying.append(proposal)
            for proposal in reversed(flying) if backwards else flying:
                value = float(np.mean(proposal.candidate.widths))
                bees.tell(told(proposal, step, Outcome(TrialState.COMPLETE, {"top1": value})))
    assert first.state_dict() == second.state_dict() | {"phase": first.state_dict()["phase"]}
    assert first.sources == second.sources


def test_seeded_begins_with_the_uniform_width() -> None:
    problem = toy_problem()
    assert run_toy(colony(problem, preset="seeded"), 1)[0].candidate == problem.widest_uniform


def test_unknown_presets_and_options_are_named() -> None:
    with pytest.raises(UnknownNameError, match="'pubished'; did you mean 'published'"):
        colony(toy_problem(), preset="pubished")
    with pytest.raises(SpecError, match=r"/strategy/options/populaton: .*Options of 'abc': population, cycles"):
        colony(toy_problem(), populaton=4)
    with pytest.raises(SpecError, match="/strategy/options/population"):
        colony(toy_problem(), population=1)


def test_minimised_metrics_become_positive_fitness() -> None:
    problem = toy_problem()
    low = Problem(problem.space, problem.cost, (Objective("loss", maximize=False),), problem.budgets)
    bees = colony(low)
    proposal = bees.ask()
    assert proposal is not None
    assert bees.fitness(told(proposal, 0, Outcome(TrialState.COMPLETE, {"loss": 1.0}))) == 0.5


def test_the_spec_refuses_select_as_report() -> None:
    """ABC-11: the leak of the reference cannot be ordered."""
    data: dict[str, Any] = {
        "search_space": {"name": "resnet20"},
        "dataset": {"name": "cifar10", "report_on": "select"},
        "strategy": {"name": "abc"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    }
    with pytest.raises(SpecError, match="cannot be reported on it"):
        SearchSpec.parse(data)
