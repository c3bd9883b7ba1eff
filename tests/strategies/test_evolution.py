"""Fidelity of evolution: EVO-1 to EVO-8, on MobileNetV1's cost where the specification names it."""

import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare

from automl_prune.errors import BudgetError, SpecError
from automl_prune.problem import Budget, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies._genetics import crossed, pairs, resampled, stepped
from automl_prune.strategies.base import Proposal
from automl_prune.strategies.evolution import Evolution
from automl_prune.strategies.random import RandomOptions, RandomSearch
from automl_prune.testing.strategy import run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FULL = np.array((32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024))
AREAS = np.array([112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7], dtype=float) ** 2
BUDGET = 330e6
SEEDS = 20


def mobilenet_cost(widths: IntArray) -> dict[str, FloatArray]:
    """MobileNetV1 at 224 pixels: ``macs``, and ``elements`` with normalisation and the last bias as MetaPruning counts."""
    c = np.concatenate([widths.astype(float), np.full((len(widths), 1), 1024.0)], axis=1)
    inner, outer = c[:, :-1], c[:, 1:]
    macs = 27 * 112**2 * c[:, 0] + (inner * (9 + outer)) @ AREAS + 1000 * c[:, -1]
    extra = 112**2 * c[:, 0] + (inner + outer) @ AREAS
    return {"macs": macs, "elements": macs + extra + 1000}


def mobilenet(budget: float = BUDGET) -> Problem:
    """13 groups of 31 ratios from 0.10 to 1.00; fewer where narrow groups make ratios coincide."""
    choices = tuple(tuple(sorted({int(full) * (10 + 3 * i) // 100 for i in range(31)})) for full in FULL)
    space = ChannelSpace(tuple(f"conv{i}" for i in range(13)), choices)
    return Problem(space, mobilenet_cost, (Objective("error", maximize=False),), (Budget("elements", max=budget),))


def evolution(problem: Problem, *, seed: int = 0, preset: str = "published", **options: Any) -> Evolution:
    made = Evolution.create(problem, seed=seed, preset=preset, options=options)
    assert isinstance(made, Evolution)
    return made


def evolve(strategy: Evolution, score: Any, most: int = 1000) -> list[Proposal]:
    """Drive a strategy with a score (None: a failure) of the widths."""
    asked: list[Proposal] = []
    while len(asked) < most and (proposal := strategy.ask()) is not None:
        asked.append(proposal)
        value, metric = score(proposal.candidate.widths), strategy.problem.objectives[0].metric
        outcome = Outcome.failed("no") if value is None else Outcome(TrialState.COMPLETE, {metric: float(value)})
        strategy.tell(told(proposal, len(asked) - 1, outcome))
    return asked


def ask_all(strategy: Evolution) -> list[Proposal]:
    return list(iter(strategy.ask, None))


@dataclass
class Run:
    asked: list[Proposal]
    errors: FloatArray
    random: float
    best_by_generation: list[float]
    strategy: Evolution


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """A thousand evaluations on a separable convex error, in which groups matter very differently; and a random control."""
    problem, found = mobilenet(), []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        weights = 4 * rng.uniform(0, 2, 13) ** 2

        def error(widths: Any, weights: Any = weights) -> Any:
            return (weights * (1 - np.asarray(widths) / FULL) ** 2).sum(axis=-1)

        strategy = evolution(problem, seed=seed)
        best: list[float] = []
        asked: list[Proposal] = []
        for _ in range(20):
            asked += evolve(strategy, error, 50)
            assert strategy.best is not None
            best.append(strategy.best.losses[0])
        drawn = FULL * (10 + 3 * rng.integers(0, 31, (1100, 13))) // 100
        control = drawn[problem.feasible(drawn)][:1000]
        assert len(control) == 1000
        errors = error(np.array([p.candidate.widths for p in asked]))
        found.append(Run(asked, errors, float(error(control).min()), best, strategy))
    return found


# EVO-1: operators


def test_mutants_change_one_gene_in_ten_to_any_other_value() -> None:
    sizes, parent = np.full(13, 31), 7
    children = resampled(np.random.default_rng(0), np.full((10_000, 13), parent), sizes, 0.1)
    changed = children[children != parent]
    assert len(changed) / children.size == pytest.approx(0.1, abs=0.005)
    assert set(changed.tolist()) == set(range(31)) - {parent}
    assert chisquare(list(Counter(changed.tolist()).values())).pvalue > 0.01


def test_a_step_always_changes_and_stays_inside() -> None:
    sizes = np.array([2, 3, 5, 31])
    for genes in itertools.product((0, 1), (0, 2), (0, 4), (0, 15, 30)):
        children = stepped(np.random.default_rng(0), np.tile(genes, (200, 1)), sizes, 1.0, 0.5)
        assert (children != genes).all()
        assert ((children >= 0) & (children < sizes)).all()


def test_a_group_with_one_width_keeps_it() -> None:
    rng, genes, sizes = np.random.default_rng(0), np.zeros((50, 2), dtype=np.int64), np.array([1, 1])
    assert not resampled(rng, genes, sizes, 1.0).any()
    assert not stepped(rng, genes, sizes, 1.0, 0.5).any()


def test_crossovers_take_half_of_each_parent() -> None:
    rng, size = np.random.default_rng(0), (10_000, 13)
    children = crossed(rng, np.zeros(size, dtype=np.int64), np.ones(size, dtype=np.int64))
    assert children.mean() == pytest.approx(0.5, abs=0.01)
    assert set(np.unique(children)) == {0, 1}
    parent = rng.integers(0, 31, (50, 13))
    assert (crossed(rng, parent, parent) == parent).all()


def test_parents_of_a_crossover_are_distinct_and_all_alike() -> None:
    drawn = pairs(np.random.default_rng(0), 9000, 10)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert chisquare(list(Counter(map(tuple, drawn.tolist())).values())).pvalue > 0.01
    assert len(set(map(tuple, drawn.tolist()))) == 90


# EVO-2: nothing twice


def test_nothing_is_evaluated_twice(runs: list[Run]) -> None:
    for run in runs:
        assert len(run.asked) == 1000
        assert len({p.candidate for p in run.asked}) == 1000


@pytest.mark.parametrize("after", [20, 130, 333])
def test_a_resumed_run_repeats_nothing_and_goes_on_the_same(after: int) -> None:
    problem = toy_problem()
    whole = evolve(evolution(problem, seed=5), lambda w: toy_score(problem, Candidate(w)), 500)
    first = evolution(problem, seed=5)
    before = evolve(first, lambda w: toy_score(problem, Candidate(w)), after)
    second = evolution(problem, seed=5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False).encode()))
    rest = evolve(second, lambda w: toy_score(problem, Candidate(w)), 500 - after)
    assert [*before, *rest] == whole
    assert len({p.candidate for p in whole}) == 500


def test_what_failed_is_not_tried_again() -> None:
    problem = toy_problem(3, 5)
    failing = {p.candidate for p in evolve(evolution(problem, population=4), lambda w: None, 12)}
    assert len(failing) == 12
    assert len(evolve(evolution(problem, population=4), lambda w: None)) == len(everything(problem))


# EVO-3: budgets


def test_the_toy_costs_what_the_specification_says() -> None:
    found = np.array((28, 18, 10, 23, 23, 22, 22, 13, 17, 28, 17, 25, 29))
    costs = mobilenet_cost(np.array([FULL, FULL * (10 + 3 * found) // 100, FULL // 10]))
    assert costs["macs"][:2] / 1e6 == pytest.approx([568.740, 313.209], abs=0.001)
    assert costs["elements"][:2] / 1e6 == pytest.approx([573.784, 316.749], abs=0.0015)
    assert costs["elements"][2] / 1e6 == pytest.approx(14.0, abs=0.05)


def test_every_candidate_keeps_the_budget_and_the_space(runs: list[Run]) -> None:
    for run in runs:
        widths = np.array([p.candidate.widths for p in run.asked])
        assert (mobilenet_cost(widths)["elements"] <= BUDGET).all()
        assert all(p.candidate in run.strategy.problem.space for p in run.asked)


@pytest.mark.parametrize("preset", Evolution.presets)
def test_a_window_between_two_budgets_is_kept(preset: str) -> None:
    problem = toy_problem()
    high = problem.budgets[0].max
    windowed = Problem(problem.space, problem.cost, problem.objectives, (Budget("macs", max=high, min=0.97 * high),))
    trials = run_toy(evolution(windowed, preset=preset), 200)
    assert len(trials) == 200
    assert all(0.97 * high <= windowed.costs(t.candidate)["macs"] <= high for t in trials)


# EVO-4: elitism


def test_the_best_never_gets_worse_and_the_survivors_are_the_best(runs: list[Run]) -> None:
    for run in runs:
        assert run.best_by_generation == sorted(run.best_by_generation, reverse=True)
        assert run.best_by_generation[-1] == run.errors.min()
        survivors = run.strategy.survivors
        assert len({m.widths for m in survivors}) == 50
        assert [m.losses[0] for m in survivors] == sorted(run.errors.tolist())[:50]


# EVO-5: composition


def test_generations_are_mutants_crossovers_and_the_rest_random(runs: list[Run]) -> None:
    """On average 6.4 random ones, within three standard errors of 20 runs; they stand in for crossovers that are known."""
    random = []
    for run in runs:
        for generation in range(20):
            part = [p for p in run.asked if p.origin["generation"] == generation]
            made = Counter(p.origin["operator"] for p in part)
            assert len(part) == 50
            assert made == {"random": 50} if generation == 0 else made["mutation"] == 25
            assert made["crossover"] <= 25
            random += [made["random"]] if generation else []
    assert np.mean(random) == pytest.approx(6.4, abs=2.0)
    per_run = np.mean(np.reshape(random, (SEEDS, 19)), axis=1)
    assert 3 * per_run.std(ddof=1) / SEEDS**0.5 <= 2.0


def test_children_say_who_their_parents_were_and_come_from_the_ten_best(runs: list[Run]) -> None:
    run = runs[0]
    last = [p for p in run.asked if p.origin["generation"] == 19]
    ten = set(np.argsort(run.errors[:950], kind="stable")[:10].tolist())
    mutants = [p for p in last if p.origin["operator"] == "mutation"]
    crossovers = [p for p in last if p.origin["operator"] == "crossover"]
    assert all(len(p.origin["parents"]) == 1 for p in mutants)
    assert {parent for p in last for parent in p.origin["parents"]} <= ten
    for child in crossovers:
        one, two = (run.asked[a].candidate.widths for a in child.origin["parents"])
        assert all(w in pair for w, *pair in zip(child.candidate.widths, one, two, strict=True))


# EVO-6 and EVO-7: power, and use of the budget


def test_it_halves_the_error_of_random_search(runs: list[Run]) -> None:
    lower = [1 - run.best_by_generation[-1] / run.random for run in runs]
    assert sum(gain >= 0.5 for gain in lower) >= 0.95 * SEEDS
    assert np.mean([run.best_by_generation[5] for run in runs]) < np.mean([run.random for run in runs])


def test_it_uses_the_budget(runs: list[Run]) -> None:
    for run in runs:
        best = run.strategy.best
        assert best is not None
        assert mobilenet_cost(np.array([best.widths]))["elements"][0] >= 0.95 * BUDGET


def test_modern_is_better_at_a_hundred_evaluations() -> None:
    """On 27 groups; against the published numbers, the uniform width and random search, median of five seeds."""
    problem, scores = toy_problem(27, 32), []
    for seed in range(5):
        modern, published = (
            run_toy(evolution(problem, seed=seed, preset=p), 100, seed=seed) for p in ("modern", "published")
        )
        random = run_toy(RandomSearch(problem, RandomOptions(), seed=seed), 100, seed=seed)
        scores.append([max(t.metrics["top1"] for t in trials) for trials in (modern, published, random, modern[:1])])
        assert modern[0].candidate == problem.widest_uniform
    medians = np.median(scores, axis=0)
    assert medians[0] > medians[1:].max()


# EVO-8: budgets that are hard or impossible to meet


@pytest.mark.parametrize("preset", Evolution.presets)
def test_a_budget_below_the_narrowest_network_is_refused_at_once(preset: str) -> None:
    began = time.process_time()
    with pytest.raises(BudgetError, match=r"elements of at most 1.3e\+07 cannot be reached"):
        evolution(mobilenet(13e6), preset=preset)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("budget", [14.04e6, 15e6, 41e6])
@pytest.mark.parametrize("preset", Evolution.presets)
def test_a_budget_that_no_draw_meets_does_not_hang(preset: str, budget: float) -> None:
    """At 41 M not one of 20,000 uniform draws fits."""
    problem = mobilenet(budget)
    strategy = evolution(problem, preset=preset)
    began = time.process_time()
    asked = evolve(strategy, lambda w: 1 - sum(w) / 5000, 120)
    assert time.process_time() - began < 10
    assert len(asked) == 120 or strategy.finished
    assert all(problem.is_feasible(p.candidate) for p in asked)
    assert len({p.candidate for p in asked}) == len(asked) >= 1


@pytest.mark.parametrize("preset", Evolution.presets)
@pytest.mark.parametrize("budget", [0.14, 0.2, 1.0])
def test_a_small_space_is_searched_to_its_end(preset: str, budget: float) -> None:
    problem = toy_problem(3, 5, budget=budget)
    strategy = evolution(problem, preset=preset, population=6, generations=1000)
    asked = evolve(strategy, lambda w: toy_score(problem, Candidate(w)))
    assert strategy.finished
    assert strategy.ask() is None
    assert {p.candidate for p in asked} == everything(problem)
    assert len(asked) == len(everything(problem))


def everything(problem: Problem) -> set[Candidate]:
    return {c for c in map(Candidate, itertools.product(*problem.space.choices)) if problem.is_feasible(c)}


# The conversation


@pytest.mark.parametrize("preset", Evolution.presets)
def test_a_generation_asks_the_same_in_whatever_order_the_last_was_told(preset: str) -> None:
    problem = toy_problem()
    first, second = (evolution(problem, seed=9, preset=preset) for _ in range(2))
    for _ in range(4):
        for strategy, backwards in ((first, False), (second, True)):
            flying = ask_all(strategy)
            assert len(flying) == strategy.options.population
            for proposal in reversed(flying) if backwards else flying:
                strategy.tell(told(proposal, 0, scored(problem, proposal)))
    assert first.state_dict() == second.state_dict()


def scored(problem: Problem, proposal: Proposal) -> Outcome:
    return Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, proposal.candidate)})


def test_without_waiting_lost_trials_hold_nothing_up() -> None:
    problem = toy_problem()
    strategy = evolution(problem, preset="modern", wait=False)
    asked = [proposal for proposal in (strategy.ask() for _ in range(100)) if proposal is not None]
    assert len(asked) == 100
    strategy.tell(told(asked[7], 7, scored(problem, asked[7])))
    strategy.tell(told(asked[3], 3, scored(problem, asked[3])))
    for _ in range(40):
        proposal = strategy.ask()
        assert proposal is not None
        asked.append(proposal)
    assert {parent for p in asked for parent in p.origin["parents"]} == {3, 7}


def test_a_generation_of_failures_is_followed_by_random_ones() -> None:
    asked = evolve(evolution(toy_problem(), population=10), lambda w: None, 30)
    assert {p.origin["operator"] for p in asked} == {"random"}


def test_only_complete_trials_with_their_metric_compete_and_each_once() -> None:
    problem = toy_problem()
    strategy = evolution(problem, preset="modern")
    flying = ask_all(strategy)
    states = [TrialState.STOPPED, TrialState.CANCELLED, TrialState.INFEASIBLE, TrialState.FAILED]
    for proposal, state in zip(flying, states, strict=False):
        strategy.tell(told(proposal, 0, Outcome(state, {"top1": 1.0})))
    strategy.tell(told(flying[4], 4, Outcome(TrialState.COMPLETE, {"loss": 0.0})))
    for _ in range(3):
        strategy.tell(told(flying[5], 5, scored(problem, flying[5])))
    strategy.tell(Trial(9, flying[6].candidate, origin={"ask": [6]}).with_outcome(scored(problem, flying[6])))
    assert [m.ask for m in strategy.members] == [5]


def test_thinking_stays_short() -> None:
    """A thousand trials of 50 groups of 64 widths: milliseconds each."""
    problem = toy_problem(50, 64)
    for preset in Evolution.presets:
        strategy = evolution(problem, preset=preset)
        spent = -time.process_time()
        trials = run_toy(strategy, 1000)
        spent += time.process_time()
        assert len(trials) == 1000
        assert spent / 1000 < 0.01


# Options


def test_options_that_contradict_each_other_are_named() -> None:
    with pytest.raises(SpecError, match=r"/strategy/options: .*parts of one generation, but add up to 1.25"):
        evolution(toy_problem(), mutants=0.75)
    with pytest.raises(SpecError, match=r"draw_from must lie below draw_to; came 0.8 and 0.4"):
        evolution(toy_problem(), draw_from=0.8, draw_to=0.4)
    with pytest.raises(SpecError, match="/strategy/options/population"):
        evolution(toy_problem(), population=1)


def test_draws_may_come_from_the_middle() -> None:
    """MetaPruning draws ResNet genes from 12 to 23 of 31."""
    space = ChannelSpace(("a", "b"), (tuple(range(1, 32)),) * 2)
    problem = Problem(space, lambda w: {"macs": w.sum(axis=1).astype(float)})
    for strategy in (evolution(problem, draw_from=0.4, draw_to=0.8), evolution(problem, preset="published_resnet")):
        asked = ask_all(strategy)
        assert {w - 1 for p in asked for w in p.candidate.widths} <= set(range(12, 24))


def test_the_published_window_is_kept() -> None:
    """Section 3.1: 1950 to 2050 M for ResNet-50, here as parts of its 4 G."""
    toy = toy_problem(groups=10, width=32, budget=None)
    full = toy.costs(toy.space.full)["macs"]
    problem = Problem(toy.space, toy.cost, toy.objectives, (Budget("macs", max=0.5 * full, min=0.475 * full),))
    trials = run_toy(evolution(problem, preset="published_resnet"), 120)
    assert len(trials) == 120
    assert all(problem.is_feasible(t.candidate) for t in trials)


@pytest.mark.parametrize("seed", range(3))
def test_published_numbers(seed: int) -> None:
    options = evolution(toy_problem(), seed=seed).options
    parts = [options.parents, options.mutants, options.crossovers]
    assert [round(part * options.population) for part in parts] == [10, 25, 25]
    assert (options.population, options.generations, options.mutation_rate) == (50, 20, 0.1)
