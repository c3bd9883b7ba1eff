"""Sensitivity: curves from measurements, the knapsack on them, and which trials are asked for."""

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import automl_prune
from automl_prune.errors import SpecError
from automl_prune.loop.arms import finalists
from automl_prune.problem import Budget, FloatArray, IntArray, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies._curves import drop_curves, fit_group, noise_of, pool_violators
from automl_prune.strategies._knapsack import WidthSolver
from automl_prune.strategies.base import MEASURES, STRATEGIES, Proposal
from automl_prune.strategies.sensitivity import Sensitivity
from automl_prune.testing.strategy import run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState
from tests.jagged import jagged_problem


def chain(
    seed: int, groups: int, width: int, *, part: float | None = None, second: bool = False, least: float = 0.0
) -> tuple[Problem, list[FloatArray]]:
    """A chain of layers of random resolutions whose MACs (and parameters) couple neighbours, and separable losses."""
    rng = np.random.default_rng(seed)
    space = ChannelSpace(tuple(f"g{i}" for i in range(groups)), (tuple(range(1, width + 1)),) * groups)
    positions = rng.uniform(0.2, 5, groups + 1)

    def cost(widths: IntArray) -> dict[str, FloatArray]:
        ends = np.ones((len(widths), 1))
        padded = np.concatenate([3 * ends, widths.astype(float), 10 * ends], axis=1)
        products = padded[:, 1:] * padded[:, :-1]
        return {"macs": (positions * products).sum(axis=1), "params": products.sum(axis=1), "peak": products.max(axis=1)}

    full = {name: float(v[0]) for name, v in cost(space.array([space.full])).items()}
    ratio = rng.uniform(0.15, 0.8) if part is None else part
    budgets = [Budget("macs", max=ratio * full["macs"], min=least * ratio * full["macs"])]
    budgets += [Budget("params", max=ratio * full["params"]), Budget("peak", max=0.9 * full["peak"])] if second else []
    share, power = rng.dirichlet(np.ones(groups)), rng.uniform(0.5, 4, groups)
    left = np.arange(1, width + 1) / width
    losses = [share[g] * (1 - left) ** power[g] for g in range(groups)]
    return Problem(space, cost, (Objective("top1"),), tuple(budgets)), losses


def exact(problem: Problem, losses: Sequence[FloatArray]) -> float:
    """Least total loss of all feasible candidates, by trying them all."""
    every = np.array(list(itertools.product(*problem.space.choices)))
    total = sum(
        loss[np.searchsorted(own, every[:, g])]
        for g, (own, loss) in enumerate(zip(problem.space.choices, losses, strict=True))
    )
    return float(np.asarray(total)[problem.feasible(every)].min())


def strategy(
    problem: Problem, *, preset: str = "modern", trials: int | None = None, seed: int = 0, **options: Any
) -> Sensitivity:
    made = STRATEGIES.get("sensitivity").create(problem, seed=seed, preset=preset, options=options, trials=trials)
    assert isinstance(made, Sensitivity)
    return made


def phases(trials: Sequence[Trial]) -> list[str]:
    return [t.origin["phase"] for t in trials]


def measurements(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if MEASURES in t.origin]


# The knapsack


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("groups", "width"), [(5, 6), (4, 9)])
def test_the_knapsack_is_the_optimum_of_all_candidates(seed: int, groups: int, width: int) -> None:
    problem, losses = chain(seed, groups, width, second=seed % 3 == 0)
    solver = WidthSolver(problem)
    found = solver.knapsack(losses)
    assert found in problem.space
    assert problem.is_feasible(found)
    assert solver.loss(found, losses) == pytest.approx(exact(problem, losses), abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_the_knapsack_is_never_worse_than_threshold_and_uniform(seed: int) -> None:
    problem, losses = chain(seed, 14, 24, second=seed % 2 == 0)
    solver = WidthSolver(problem)
    ours = solver.loss(solver.knapsack(losses), losses)
    assert ours <= solver.loss(solver.threshold(losses), losses)
    assert ours <= solver.loss(problem.widest_uniform, losses)


def test_on_the_whole_the_knapsack_beats_the_threshold_clearly() -> None:
    ratios = []
    for seed in range(10):
        problem, losses = chain(seed, 10, 16)
        solver = WidthSolver(problem)
        ratios.append(solver.loss(solver.threshold(losses), losses) / solver.loss(solver.knapsack(losses), losses))
    assert np.mean(ratios) > 1.15


@pytest.mark.parametrize("part", [0.02, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("least", [0.0, 0.95])
def test_every_answer_lies_in_the_budgets(part: float, least: float) -> None:
    problem, losses = chain(3, 6, 20, part=part, least=least, second=least == 0)
    solver, rng = WidthSolver(problem), np.random.default_rng(0)
    answers = [solver.knapsack(losses), solver.threshold(losses), solver.feasible(problem.space.full)]
    for _ in range(10):
        tilted = [loss * rng.uniform(0.1, 10) for loss in losses]
        answers.append(solver.improve(answers[0], tilted, rounds=2))
        answers.append(solver.adapted(answers[0], int(rng.integers(6)), int(rng.integers(1, 21)), tilted, rounds=2))
    assert all(problem.is_feasible(a) and a in problem.space for a in answers)


@pytest.mark.parametrize("seed", range(5))
def test_where_costs_do_not_grow_answers_fit_and_lose_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = jagged_problem(groups=3, width=20, budget=float(rng.uniform(0.2, 0.8)))
    losses = [rng.uniform(0.5, 2) * (1 - np.arange(1, 21) / 20) ** rng.uniform(0.5, 4) for _ in range(3)]
    solver = WidthSolver(problem)
    answer, even = solver.knapsack(losses), solver.threshold(losses)
    assert problem.is_feasible(answer)
    assert solver.loss(answer, losses) <= 1.05 * exact(problem, losses)
    levels = np.unique(np.concatenate(losses))
    narrowest = [Candidate(tuple(int(np.argmax(loss <= level)) + 1 for loss in losses)) for level in levels]
    assert even == next(c for c in narrowest if problem.is_feasible(c))


def test_flat_losses_and_rising_losses_are_survived() -> None:
    problem, _ = chain(0, 5, 8)
    solver = WidthSolver(problem)
    for losses in ([np.zeros(8)] * 5, [np.linspace(0, 1, 8)] * 5):
        assert problem.is_feasible(solver.knapsack(losses))
        assert problem.is_feasible(solver.threshold(losses))


def test_groups_of_one_choice_and_of_many() -> None:
    space = ChannelSpace(("a", "b", "c"), ((4,), tuple(range(1, 513)), (2, 8)))
    problem = Problem(space, lambda w: {"macs": w.prod(axis=1).astype(float)}, budgets=(Budget("macs", max=4 * 512 * 4),))
    losses = [np.zeros(1), 1e-3 * (512 - np.arange(1.0, 513)), np.array([0.1, 0.0])]
    assert WidthSolver(problem).knapsack(losses) == Candidate((4, 512, 2))


def test_without_budget_nothing_is_cut() -> None:
    problem = toy_problem(budget=None)
    assert WidthSolver(problem).knapsack([1 - np.arange(1, 17) / 16] * 8) == problem.space.full


# The curves


def test_pooling_makes_the_nearest_falling_sequence() -> None:
    fitted, levels = pool_violators(np.array([3.0, 4.0, 1.0, 2.0, 0.0]))
    assert fitted.tolist() == [3.5, 3.5, 1.5, 1.5, 0.0]
    assert levels == 3


def test_curves_fall_and_pass_through_monotone_measurements() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        widths = sorted(rng.choice(np.arange(1, 64), 5, replace=False).tolist())
        drops = np.sort(rng.uniform(0, 1, 5))[::-1]
        curve = drop_curves([tuple(range(1, 65))], [dict(zip(widths, drops.tolist(), strict=True))])[0]
        assert (np.diff(curve) <= 0).all()
        assert curve[-1] == 0
        np.testing.assert_allclose(curve[np.array(widths) - 1], drops, atol=1e-6)


def test_a_measured_rise_is_taken_out_and_taken_as_noise() -> None:
    choices = [tuple(range(1, 9))] * 2
    points = [{2: 0.10, 4: 0.14, 6: 0.02}, {4: -0.01}]
    curves = drop_curves(choices, points, noise=0.0)
    assert curves[0][1] == pytest.approx(0.12, abs=1e-6)
    assert curves[0][3] == pytest.approx(0.12, abs=1e-6)
    assert curves[1].max() < 1e-6
    assert noise_of(choices, points) == pytest.approx(np.sqrt((2 * 0.02**2 + 2 * 0.005**2) / 2))


def test_noise_is_estimated_where_nothing_is_lost() -> None:
    rng = np.random.default_rng(1)
    points = [{w: float(v) for w, v in zip(range(1, 9), rng.normal(0, 0.01, 8), strict=True)} for _ in range(40)]
    assert noise_of([tuple(range(1, 10))] * 40, points) == pytest.approx(0.01, rel=0.4)


def test_unmeasured_groups_are_like_the_others() -> None:
    choices = [tuple(range(1, 17))] * 3
    curves = drop_curves(choices, [{4: 0.3, 8: 0.1}, {4: 0.1, 8: 0.05}, {}])
    np.testing.assert_allclose(curves[2], (curves[0] + curves[1]) / 2, atol=1e-3)
    assert drop_curves(choices, [{}, {}, {}])[0].max() < 1e-6


def test_fits_do_not_depend_on_the_order_of_telling() -> None:
    assert fit_group((1, 2, 3), ((1, 0.3), (2, 0.1))).curve is not None
    first, second = (drop_curves([(1, 2, 3, 4)], [p])[0] for p in ({1: 0.3, 3: 0.1}, {3: 0.1, 1: 0.3}))
    np.testing.assert_array_equal(first, second)


def test_pure_noise_cuts_no_group_to_the_bone() -> None:
    """Curves that are no more than noise do not say which group to cut; taken at their word, they decide all the same."""
    problem = toy_problem(groups=10, width=32)
    narrowest: dict[float | None, int] = {}
    for noise in (None, 0.0):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            points = [{w: float(rng.normal(0, 0.01)) for w in (4, 8, 16, 24)} for _ in range(10)]
            found = WidthSolver(problem).knapsack(drop_curves(problem.space.choices, points, noise=noise))
            narrowest[noise] = min(narrowest.get(noise, 32), *found.widths)
    assert narrowest[None] >= 13
    assert narrowest[0.0] < 10


# The conversation


def test_with_every_width_measured_the_optimum_is_asked_for() -> None:
    for seed in range(5):
        problem = toy_problem(groups=4, width=6)
        trials = run_toy(strategy(problem, points=5, share=1.0, seed=seed), 60, seed=seed)
        every = [Candidate(w) for w in itertools.product(*problem.space.choices)]
        best = max(toy_score(problem, c, seed=seed) for c in every if problem.is_feasible(c))
        solution = next(t for t in trials if t.origin["phase"] == "solution")
        assert solution.metrics["top1"] == pytest.approx(best, abs=2e-3)
        assert max(t.metrics["top1"] for t in trials if problem.is_feasible(t.candidate)) == pytest.approx(best, abs=1e-9)


def test_first_uniform_then_the_map_then_solutions_then_neighbours() -> None:
    trials = run_toy(strategy(toy_problem(), points=3), 60)
    assert [p for p, _ in itertools.groupby(phases(trials))] == ["uniform", "measure", "solution", "nearby"]
    assert len({t.candidate for t in trials}) == 60


def test_measurements_cut_one_group_and_name_it() -> None:
    problem = toy_problem()
    for trial in measurements(run_toy(strategy(problem), 40)):
        cut = {n: w for n, w in problem.space.widths(trial.candidate).items() if w < 16}
        said = trial.origin[MEASURES]
        assert cut == ({} if said["group"] is None else {said["group"]: said["width"]})


@pytest.mark.parametrize(
    ("options", "trials", "most"),
    [({"points": 3}, None, 25), ({"points": 9}, 40, 24), ({"share": 0.25}, 40, 10), ({}, 2, 0), ({}, 1, 0), ({}, 4, 2)],
)
def test_measurements_are_bounded(options: dict[str, Any], trials: int | None, most: int) -> None:
    problem = toy_problem()
    asked = run_toy(strategy(problem, trials=trials, **options), trials or 60)
    assert len(measurements(asked)) == most
    assert any(problem.is_feasible(t.candidate) for t in asked)


def test_refinement_measures_where_curves_are_steep() -> None:
    """One group loses nothing: after its coarse grid it is not measured again."""
    problem = toy_problem(groups=3, width=64)
    made, count = strategy(problem, points=12), [0, 0, 0]
    for number in range(40):
        proposal = made.ask()
        assert proposal is not None
        lost = sum((1 - w / 64) ** 2 for w in proposal.candidate.widths[1:])
        made.tell(told(proposal, number, Outcome(TrialState.COMPLETE, {"top1": 0.9 - 0.1 * lost})))
        if group := proposal.origin.get(MEASURES, {}).get("group"):
            count[problem.space.names.index(group)] += 1
    assert count[0] == 3
    assert min(count[1:]) > 6


def test_an_earlier_searchs_map_serves_another_budget() -> None:
    loose, tight = toy_problem(budget=0.6), toy_problem(budget=0.3)
    earlier = run_toy(strategy(loose, points=4), 45)
    heir = strategy(tight, points=4)
    for trial in json.loads(json.dumps([[t.number, t.candidate.widths, dict(t.metrics)] for t in earlier])):
        number, widths, metrics = trial
        heir.tell(Trial(number, Candidate(tuple(widths))).with_outcome(Outcome(TrialState.COMPLETE, metrics)))
    trials = run_toy(heir, 10)
    assert phases(trials)[:2] == ["uniform", "solution"]
    same = strategy(loose, points=4)
    for told_before in earlier:
        same.tell(told_before)
    again = run_toy(same, 2)
    assert [t.candidate for t in again] == [earlier[0].candidate, next(t.candidate for t in earlier if "solver" in t.origin)]
    assert not measurements(trials)
    assert all(tight.is_feasible(t.candidate) for t in trials)
    assert trials[1].metrics["top1"] > trials[0].metrics["top1"]


def test_what_is_recalled_is_the_map_of_a_search_that_measured_it() -> None:
    problem = toy_problem()
    earlier = run_toy(strategy(problem, points=4, explore=False), 40)
    heir = strategy(problem, points=4, explore=False)
    for trial in measurements(earlier):
        heir.recall(trial.candidate, {"top1": trial.metrics["top1"]})
    assert [t.candidate for t in run_toy(heir, 40)] == [t.candidate for t in earlier if MEASURES not in t.origin]


def test_what_is_recalled_uses_up_no_trials() -> None:
    problem = toy_problem()
    heir = strategy(problem, trials=20)
    for trial in measurements(run_toy(strategy(problem, points=2), 18)):
        heir.recall(trial.candidate, {"top1": trial.metrics["top1"]})
    assert len(measurements(run_toy(heir, 20))) == heir.limit == 12


def test_what_is_recalled_is_no_network_of_this_search() -> None:
    """A cut within the budgets was never scored here: it may be asked for, and nothing is explored around it before."""
    problem = toy_problem(groups=1)
    heir = strategy(problem)
    best = problem.widest_uniform
    heir.recall(problem.space.full, {"top1": 0.9})
    heir.recall(best, {"top1": 0.8})
    heir.recall(problem.space.narrowest, {})
    assert heir.best is None
    assert heir.cuts == [{best.widths[0]: 0.8}], "what has no score is not known"
    assert best in [t.candidate for t in run_toy(heir, 20)]


def test_a_scan_that_an_earlier_search_began_on_a_coarser_grid_goes_on() -> None:
    """What is narrower than a width that lost nothing is still to be measured, as nobody did."""
    problem = toy_problem()
    made = strategy(problem, preset="published", trials=200)
    full = problem.space.full.widths
    made.recall(Candidate(full), {"top1": 0.9})
    for g in range(len(full)):
        made.recall(Candidate((*full[:g], full[g] // 2, *full[g + 1 :])), {"top1": 0.9})
    asked = measurements(run_toy(made, 60))
    assert {t.origin[MEASURES]["group"] for t in asked} == {*problem.space.names}
    assert all(min(t.candidate.widths) < max(full) // 2 for t in asked)


@pytest.mark.parametrize(
    ("name", "preset", "options", "wanted"),
    [
        ("sensitivity", "modern", {}, True),
        ("sensitivity", "published", {}, True),
        ("sensitivity", "modern", {"reuse": False}, False),
        ("auto", "measured", {}, True),
        ("auto", "default", {}, False),
        ("evolution", None, {}, False),
    ],
)
def test_maps_are_recalled_where_there_is_one(name: str, preset: str, options: dict[str, Any], wanted: bool) -> None:
    made = STRATEGIES.get(name).create(toy_problem(), preset=preset, options=options, trials=60)
    assert made.wants_measured == wanted


def test_measurements_may_be_in_flight_together_and_solutions_wait_for_them() -> None:
    made = strategy(toy_problem(), points=2)
    flying: list[Proposal] = list(iter(made.ask, None))
    assert phases([told(p, 0, Outcome.failed("")) for p in flying]) == ["uniform"] + ["measure"] * 17
    assert not made.finished
    for number, proposal in enumerate(flying):
        assert made.ask() is None
        score = toy_score(made.problem, proposal.candidate)
        made.tell(told(proposal, number, Outcome(TrialState.COMPLETE, {"top1": score})))
    solution = made.ask()
    assert solution is not None
    assert solution.origin["phase"] == "solution"


def test_when_all_measurements_fail_the_solution_is_even() -> None:
    made = strategy(toy_problem(), points=1)
    asked = []
    for number in range(12):
        proposal = made.ask()
        assert proposal is not None
        asked.append(proposal)
        made.tell(told(proposal, number, Outcome.failed("no")))
    solution = next(p for p in asked if p.origin["phase"] == "solution")
    assert made.problem.is_feasible(solution.candidate)
    assert max(solution.candidate.widths) - min(solution.candidate.widths) <= 4


def test_curves_of_the_loss_while_accuracy_decides() -> None:
    problem = toy_problem()
    made = strategy(problem, metric="loss", points=2)
    for number in range(20):
        proposal = made.ask()
        assert proposal is not None
        metrics = {"top1": 0.5, "loss": 2 * (1 - toy_score(problem, proposal.candidate))}
        made.tell(told(proposal, number, Outcome(TrialState.COMPLETE, metrics)))
    assert made.reference == pytest.approx(-0.2)
    assert made.best is not None
    assert made.best[0] == 0.5


def test_a_measurement_over_budget_is_never_recovered() -> None:
    problem = toy_problem()
    trials = run_toy(strategy(problem), 60)
    assert max(trials, key=lambda t: t.metrics["top1"]).candidate == problem.space.full
    recovered = finalists(problem, trials, 10)
    assert len(recovered) == 10
    assert all(problem.is_feasible(p.candidate) for p in recovered)


def test_nothing_more_to_ask_in_an_exhausted_space() -> None:
    problem = toy_problem(groups=2, width=3)
    made = strategy(problem)
    trials = run_toy(made, 100)
    assert made.finished
    feasible = {t.candidate for t in trials if problem.is_feasible(t.candidate)}
    every = [Candidate(w) for w in itertools.product((1, 2, 3), repeat=2)]
    assert max(toy_score(problem, c) for c in feasible) == max(
        toy_score(problem, c) for c in every if problem.is_feasible(c)
    )


def test_a_whole_search_measures_outside_its_budget_and_answers_inside() -> None:
    """Through plan, controller and evaluator; the limit on trials reaches the strategy."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    data = torch.rand(160, 1, 8, 8), torch.arange(160) % 4
    found = automl_prune.search(
        model, data, budget={"metric": "macs", "max_ratio": 0.3}, strategy="sensitivity", trials=10, controls=(),
        finish={"recovery": "none", "top_k": 2},
    )  # fmt: skip
    searched = [t for t in found.trials if t.arm == "search"]
    limit = found.result["budgets"][0]["max"]
    measured = measurements(searched)
    assert len(searched) == 10
    assert 3 <= len(measured) <= 6
    assert any(t.metrics["macs"] > limit for t in measured)
    assert all(t.metrics["macs"] <= limit for t in searched if MEASURES not in t.origin)
    assert all(t.metrics["macs"] <= limit for t in found.trials if t.arm == "final")
    assert found.metrics["macs"] <= limit


# FastNAS


def test_published_scans_from_narrow_to_wide_and_stops_where_nothing_is_lost() -> None:
    problem = toy_problem(groups=2, width=40)
    made, asked = strategy(problem, preset="published"), []
    while (proposal := made.ask()) is not None:
        asked.append(proposal)
        first, second = proposal.candidate.widths
        score = 0.9 - 0.5 * max(0, 10 - first) / 40 - 0.2 * (1 - second / 40)
        made.tell(told(proposal, len(asked) - 1, Outcome(TrialState.COMPLETE, {"top1": score})))
    assert made.finished
    scanned = [p.candidate.widths for p in asked[1:-1]]
    assert [a for a, b in scanned if b == 40] == [2, 4, 6, 8, 10]
    assert [b for a, b in scanned if a == 40] == list(range(2, 40, 2))
    solution = asked[-1]
    assert solution.origin == {"phase": "solution", "solver": "threshold"}
    assert problem.is_feasible(solution.candidate)


def test_published_leaves_a_trial_for_its_solution() -> None:
    problem = toy_problem()
    trials = run_toy(strategy(problem, preset="published", trials=30), 30)
    assert trials[-1].origin["phase"] == "solution"
    assert len(trials) <= 30


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(SpecError, match="/strategy/options/share"):
        strategy(toy_problem(), share=0)
    with pytest.raises(SpecError, match="/strategy/options/solver"):
        strategy(toy_problem(), solver="greedy")


# Speed


def test_thinking_takes_milliseconds() -> None:
    """CPU time of ask and tell, a thousand trials in a space of fifty groups."""
    problem = toy_problem(50, 32)
    made, spent = strategy(problem, trials=1000), 0.0
    for number in range(1000):
        started = time.process_time()
        proposal = made.ask()
        spent += time.process_time() - started
        assert proposal is not None
        trial = told(proposal, number, Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, proposal.candidate)}))
        started = time.process_time()
        made.tell(trial)
        spent += time.process_time() - started
    assert spent / 1000 < 0.01
