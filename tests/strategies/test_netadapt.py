"""Fidelity of NetAdapt: NA-1, NA-4 to NA-8 and NA-11, on costs that can be worked out by hand."""

import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from automl_prune.errors import SpecError
from automl_prune.problem import Budget, FloatArray, IntArray, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies._shrinking import ScheduleOptions, Shrinker
from automl_prune.strategies.base import MEASURES, Proposal
from automl_prune.strategies.netadapt import Entry, NetAdapt
from automl_prune.testing.strategy import run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState
from tests.jagged import jagged_cost, jagged_problem


def chain(fulls: Sequence[int], ratio: float, *, step: int = 8) -> Problem:
    """Layers in a chain with areas that halve, and widths on a grid of 8; the full width stays allowed."""
    choices = tuple(tuple(sorted({*range(step, full + 1, step), full})) for full in fulls)
    space = ChannelSpace(tuple(f"conv{i}" for i in range(len(fulls))), choices)
    areas = 4.0 ** np.arange(len(fulls), 0, -1)

    def cost(widths: IntArray) -> Mapping[str, FloatArray]:
        padded = np.concatenate([np.full((len(widths), 1), 3.0), widths.astype(float)], axis=1)
        weights = 9 * padded[:, 1:] * padded[:, :-1]
        return {"macs": weights @ areas, "params": weights.sum(axis=1)}

    full = float(cost(space.array([space.full]))["macs"][0])
    return Problem(space, cost, (Objective("top1"),), (Budget("macs", max=ratio * full),))


def line(groups: int, ratio: float, *, width: int, cost: float = 1.0) -> Problem:
    """Groups whose widths all cost the same."""
    space = ChannelSpace(tuple(f"g{i}" for i in range(groups)), (tuple(range(1, width + 1)),) * groups)

    def costs(widths: IntArray) -> Mapping[str, FloatArray]:
        return {"macs": cost * widths.sum(axis=1).astype(float)}

    return Problem(space, costs, (Objective("top1"),), (Budget("macs", max=round(ratio * cost * groups * width, 6)),))


def netadapt(
    problem: Problem, *, seed: int = 0, preset: str = "published", trials: int | None = None, **options: Any
) -> NetAdapt:
    made = NetAdapt.create(problem, seed=seed, preset=preset, options=options, trials=trials)
    assert isinstance(made, NetAdapt)
    return made


def drive(strategy: NetAdapt, score: Any, most: int = 5000) -> list[Trial]:
    """One trial at a time; ``score`` maps widths to a top-1, or None for a failure."""
    trials: list[Trial] = []
    while len(trials) < most and (proposal := strategy.ask()) is not None:
        value = score(np.array(proposal.candidate.widths))
        outcome = Outcome.failed("no") if value is None else Outcome(TrialState.COMPLETE, {"top1": float(value)})
        trials.append(told(proposal, len(trials), outcome))
        strategy.tell(trials[-1])
    return trials


# NA-1: how many channels


def test_the_widest_cut_that_lies_strictly_below_the_target() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        problem = chain([int(8 * n) for n in rng.integers(2, 12, size=4)], 0.05)
        widths = tuple(int(rng.choice(own[1:])) for own in problem.space.choices)
        schedule = ScheduleOptions(initial_reduction=float(rng.uniform(0.01, 0.4)), decay=1.0)
        cuts, targets = Shrinker(problem, schedule).cuts(widths, 1)
        expected = []
        for g, own in enumerate(problem.space.choices):
            for w in (w for w in reversed(own) if w < widths[g]):
                row = (*widths[:g], w, *widths[g + 1 :])
                if problem.costs(Candidate(row))["macs"] < targets["macs"]:
                    expected.append((g, row))
                    break
        assert cuts == expected
        found += len(cuts)
    assert found > 500


@pytest.mark.parametrize("both", [False, True])
def test_the_widest_cut_is_found_where_costs_do_not_grow_with_widths(both: bool) -> None:
    """Beside every cut that brute force finds: none that exceeds a second budget, which is met and could be lost."""
    rng = np.random.default_rng(0)
    found = beyond = 0
    for _ in range(100):
        problem = jagged_problem(groups=3, width=48, budget=0.1)
        widths = tuple(rng.integers(8, 49, size=3).tolist())
        most = 1.02 * problem.costs(Candidate(widths))["macs"]
        budgets = (Budget("macs", max=0.05 * most), *problem.budgets[: 0 if both else 1])
        if both:
            budgets = (budgets[0], Budget("ms", max=problem.costs(Candidate(widths))["ms"], grows=False))
        problem = Problem(problem.space, jagged_cost, problem.objectives, budgets)
        schedule = ScheduleOptions(initial_reduction=float(rng.uniform(0.005, 0.1)), decay=1.0)
        cuts, targets = Shrinker(problem, schedule).cuts(widths, 1)
        expected = []
        for g in range(3):
            for w in range(widths[g] - 1, 0, -1):
                row = (*widths[:g], w, *widths[g + 1 :])
                costs = problem.costs(Candidate(row))
                beyond += costs["ms"] > problem.costs(Candidate(widths))["ms"]
                if all(costs[m] < targets[m] if m in targets else costs[m] <= budgets[1].max for m in ("macs", "ms")):
                    expected.append((g, row))
                    break
        assert cuts == expected
        found += len(cuts)
    assert found > 150
    assert beyond > 100  # where narrower cuts that are slower were tried


def test_a_cost_equal_to_the_target_is_not_below_it() -> None:
    problem = line(2, 0.5, width=100)
    assert Shrinker(problem, ScheduleOptions(initial_reduction=0.05)).cuts((100, 100), 1)[0] == [
        (0, (89, 100)),
        (1, (100, 89)),
    ]
    clamped = ScheduleOptions(initial_reduction=0.6, decay=1.0, clamp=True)
    assert Shrinker(line(2, 0.55, width=100), clamped).cuts((100, 100), 1) == (
        [(0, (10, 100)), (1, (100, 10))],
        {"macs": 110.0},
    )


def test_groups_narrower_than_the_grid_are_not_cut() -> None:
    problem = chain([6, 32, 64], 0.5)
    assert problem.space.choices[0] == (6,)
    strategy = netadapt(problem)
    trials = drive(strategy, lambda w: w.sum() / 1000)
    assert all(t.candidate.widths[0] == 6 for t in trials)
    assert problem.is_feasible(trials[strategy.family[-1]].candidate)


def test_a_reduction_that_no_group_can_make_is_halved() -> None:
    problem = line(20, 0.5, width=8)
    cuts, targets = Shrinker(problem, ScheduleOptions(initial_reduction=0.2, decay=1.0)).cuts((8,) * 20, 1)
    assert targets == {"macs": 160 - 160 * 0.2 / 8}
    assert len(cuts) == 20


# NA-4: schedule


def test_targets_follow_the_cost_that_was_reached() -> None:
    problem = chain([64, 128, 256], 0.3)
    strategy, full = netadapt(problem, initial_reduction=0.08, decay=0.9), problem.costs(problem.space.full)["macs"]
    trials = drive(strategy, lambda w: w.sum() / 1000)
    reached = full
    for number, winner in enumerate(strategy.family, start=1):
        of_iteration = [t for t in trials if t.origin["iteration"] == number]
        target = reached - 0.08 * full * 0.9 ** (number - 1)
        assert [t.origin["targets"]["macs"] for t in of_iteration] == pytest.approx([target] * len(of_iteration))
        assert all(problem.costs(t.candidate)["macs"] < t.origin["targets"]["macs"] for t in of_iteration)
        reached = problem.costs(trials[winner].candidate)["macs"]
    assert reached <= 0.3 * full


@pytest.mark.parametrize(
    ("first", "decay", "expected", "left"),
    [
        (0.025, 0.96, {0.75: 13, 0.5: 40, 0.25: None}, 0.375),
        (0.025, 1.0, {0.75: 10, 0.5: 20, 0.25: 30}, 0.0),
        (0.05, 0.98, {0.75: 6, 0.5: 12, 0.25: 18}, 0.0),
        (0.03, 0.98, {0.75: 10, 0.5: 21, 0.25: 35}, 0.0),
    ],
)
def test_the_table_of_schedules(first: float, decay: float, expected: Mapping[float, int | None], left: float) -> None:
    schedule = ScheduleOptions(initial_reduction=first, decay=decay)
    assert {ratio: schedule.iterations(ratio) for ratio in expected} == expected
    assert schedule.floor == pytest.approx(left)
    for ratio, iterations in expected.items():
        if iterations is None:
            continue
        fine = line(1, ratio, width=1_000_000)  # as good as continuous
        strategy = netadapt(fine, initial_reduction=first, decay=decay)
        assert len(drive(strategy, lambda w: 0.5)) == iterations


@pytest.mark.parametrize(
    ("first", "decay", "ratio", "left"),
    [(0.025, 0.96, 0.376, 0.559), (0.025, 1.0, 0.2, 0.25), (0.05, 0.98, 0.001, 0.0), (0.03, 0.98, 0.1, 0.318)],
)
def test_what_remains_after_thirty_iterations(first: float, decay: float, ratio: float, left: float) -> None:
    """The last column of that table; where 0 remains, the budget was met before."""
    strategy = netadapt(line(1, ratio, width=1_000_000), initial_reduction=first, decay=decay)
    trials = drive(strategy, lambda w: 0.5, most=30)
    assert strategy.family == tuple(range(len(trials)))
    assert trials[-1].candidate.widths[0] / 1e6 == pytest.approx(left, abs=6e-4 if left else 1e-3)
    assert len(trials) == 30 or strategy.finished


def test_reductions_may_be_parts_of_what_was_reached() -> None:
    schedule = ScheduleOptions(schedule="ratio", initial_reduction=0.1, decay=1.0)
    assert schedule.iterations(0.5) == 7
    assert (
        len(drive(netadapt(line(1, 0.5, width=1_000_000), schedule="ratio", initial_reduction=0.1, decay=1.0), lambda w: 0))
        == 7
    )


# NA-5: reachable or refused


def test_a_schedule_that_ends_above_the_budget_is_refused() -> None:
    problem = line(3, 0.25, width=1000)
    with pytest.raises(
        SpecError, match=r"37\.5 % of macs are left in the end, and the budget is 25 %\. Use 0\.03 or more"
    ) as caught:
        netadapt(problem, initial_reduction=0.025, decay=0.96)
    assert [e.pointer for e in caught.value.errors] == ["/strategy/options/initial_reduction"]
    assert netadapt(problem, initial_reduction=0.025, decay=1.0)
    assert netadapt(problem, initial_reduction=0.03, decay=0.96)


@pytest.mark.parametrize(
    ("first", "decay", "said"),
    [
        (
            4e-5,
            1.0,
            "it takes more than 10,000 iterations until macs are low enough, and the budget is 50 %. Use 5e-05 or more.",
        ),
        (
            5e-5,
            0.99999,
            "it takes more than 10,000 iterations until macs are low enough, and the budget is 50 %. Use 5.26e-05",
        ),
        (
            1e-3,
            0.995,
            "80 % of macs are left in the end, and the budget is 50 %. Use 0.0025 or more, or a decay nearer to 1.",
        ),
    ],
)
def test_what_a_refusal_advises_would_do(first: float, decay: float, said: str) -> None:
    """Also where nothing but the number of iterations is in the way."""
    problem = line(3, 0.5, width=1000)
    with pytest.raises(SpecError) as caught:
        netadapt(problem, initial_reduction=first, decay=decay)
    assert said in str(caught.value)
    advised = float(said.partition("Use ")[2].split()[0])
    assert netadapt(problem, initial_reduction=advised, decay=decay)
    with pytest.raises(SpecError):
        netadapt(problem, initial_reduction=0.99 * advised, decay=decay)


def test_parts_of_what_was_reached_may_take_too_long() -> None:
    with pytest.raises(SpecError, match=r"takes more than 10,000 .* the budget is 50 %\. Use a larger one\.$"):
        netadapt(line(3, 0.5, width=1000), schedule="ratio", initial_reduction=5e-5, decay=1.0)
    with pytest.raises(SpecError, match=r"60\.25 % of macs are left .* Use a larger one, or a decay nearer to 1\.$"):
        netadapt(line(3, 0.5, width=1000), schedule="ratio", initial_reduction=0.05, decay=0.9)


def test_trials_are_counted_no_further_than_they_reach() -> None:
    """Ten thousand iterations of 50 groups took seconds, of which a search of 100 trials comes to 100."""
    problem = toy_problem(50, 512)
    started = time.process_time()
    with pytest.raises(SpecError, match=r"more than 100 trials: about 9,616 iterations of 50 each"):
        netadapt(problem, initial_reduction=5.2e-5, decay=1.0, trials=100)
    with pytest.raises(SpecError, match=r"more than 100 trials: about 9,616 iterations of one or more each"):
        netadapt(problem, preset="modern", initial_reduction=5.2e-5, trials=100)
    assert time.process_time() - started < 1


def test_trials_that_do_not_suffice_are_refused() -> None:
    problem = line(10, 0.5, width=1000)
    needed = sum(Shrinker(problem, ScheduleOptions()).sizes())
    with pytest.raises(
        SpecError, match=f"needs more than {needed - 1} trials: about 21 iterations of 10 each. Raise it, let groups be"
    ) as caught:
        netadapt(problem, trials=needed - 1)
    assert [e.pointer for e in caught.value.errors] == ["/trials/max"]
    strategy = netadapt(problem, trials=needed)
    trials = drive(strategy, toy_accuracy(10))
    assert len(trials) <= needed
    assert problem.is_feasible(trials[strategy.family[-1]].candidate)
    with pytest.raises(SpecError, match="needs more than 9 trials: about 10 iterations of one or more each"):
        netadapt(problem, preset="modern", trials=9)


@pytest.mark.parametrize("trials", [10, 23, 60, 100, 400])
def test_as_many_groups_as_the_trials_allow_for(trials: int) -> None:
    problem = line(10, 0.5, width=1000)
    strategy = netadapt(problem, preset="modern", trials=trials)
    asked = drive(strategy, toy_accuracy(10))
    everything = len(drive(netadapt(problem, preset="modern"), toy_accuracy(10)))
    assert 0.8 * min(trials, everything) <= len(asked) <= trials
    assert problem.costs(asked[strategy.family[-1]].candidate)["macs"] == 5000


def test_every_budget_has_its_target() -> None:
    problem = chain([64, 128, 256], 0.6)
    full = problem.costs(problem.space.full)
    both = Problem(
        problem.space, problem.cost, problem.objectives, (*problem.budgets, Budget("params", max=0.3 * full["params"]))
    )
    strategy = netadapt(both)
    trials = drive(strategy, lambda w: w.sum() / 1000)
    assert both.is_feasible(trials[strategy.family[-1]].candidate)
    assert set(trials[0].origin["targets"]) == {"macs", "params"}
    assert set(trials[-1].origin["targets"]) == {"params"}


# NA-6: the winner


def entries(problem: Problem, saved: Sequence[int], accuracy: Sequence[float]) -> list[Entry]:
    rows = [tuple(100 - s * (i == g) for i in range(len(saved))) for g, s in enumerate(saved)]
    return [Entry(g, row, state="scored", number=g, loss=-a) for g, (row, a) in enumerate(zip(rows, accuracy, strict=True))]


@pytest.mark.parametrize(
    ("saved", "accuracy", "by_accuracy", "by_ratio"),
    [
        ([10, 40, 20], [0.79, 0.78, 0.70], 0, 1),  # drops of 1, 2 and 10 points for savings of 10, 40 and 20
        (
            [10, 30, 20],
            [0.83, 0.82, 0.79],
            0,
            1,
        ),  # accuracy rises twice: the larger saving, where the code takes the smaller
        ([10, 30, 20], [0.80, 0.70, 0.79], 0, 0),  # no drop at all
        ([10, 10, 10], [0.70, 0.75, 0.75], 1, 1),  # alike: the earlier
    ],
)
def test_both_rules_choose_as_worked_out(saved: list[int], accuracy: list[float], by_accuracy: int, by_ratio: int) -> None:
    problem = line(3, 0.5, width=100)
    for rule, expected in (("highest_accuracy", by_accuracy), ("ratio", by_ratio)):
        strategy = netadapt(problem, rule=rule)
        strategy.loss = -0.8
        assert strategy.winner(entries(problem, saved, accuracy)).group == expected


def test_the_ratio_rule_scores_the_full_network_first() -> None:
    problem = chain([64, 128, 256], 0.5)
    strategy = netadapt(problem, rule="ratio")
    trials = drive(strategy, lambda w: w.sum() / 1000)
    assert trials[0].candidate == problem.space.full
    assert MEASURES in trials[0].origin
    assert trials[1].parent is None, "the search starts from the given weights"
    assert strategy.family[0] > 0


# NA-7: greedy is optimal where it should be


def toy_accuracy(groups: int, seed: int = 0) -> Any:
    price = np.random.default_rng(seed).permutation(groups) + 1.0
    return lambda w: 1 - float(price @ (1000 - w)) / 1e6


def test_on_a_separable_toy_the_cheapest_groups_go_first() -> None:
    """Accuracy falls linearly, by another slope in each group: the best network empties groups in order of slope."""
    groups, width, step = 6, 101, 10
    slopes = np.random.default_rng(3).permutation(groups) + 1.0
    full = groups * width
    problem = line(groups, 1 - 250 / full, width=width)
    strategy = netadapt(problem, initial_reduction=(step - 0.5) / full, decay=1.0)
    trials = drive(strategy, lambda w: 1 - slopes @ (width - w) / 1e4)
    sequence = [problem.space.names.index(trials[n].origin["group"]) for n in strategy.family]
    cheapest = np.argsort(slopes)
    assert sequence == [*[cheapest[0]] * 10, *[cheapest[1]] * 10, *[cheapest[2]] * 5]
    optimum = np.full(groups, width)
    optimum[cheapest[:3]] -= [100, 100, 50]
    assert trials[strategy.family[-1]].candidate.widths == tuple(optimum)


# NA-8: the family


def test_winners_form_a_family_of_falling_cost() -> None:
    problem = chain([64, 128, 128, 256], 0.3)
    strategy = netadapt(problem)
    trials = drive(strategy, lambda w: toy_score(problem, Candidate(tuple(w.tolist()))))
    family = [trials[n] for n in strategy.family]
    costs = [problem.costs(t.candidate)["macs"] for t in family]
    assert costs == sorted(set(costs), reverse=True)
    assert [t.origin["iteration"] for t in family] == list(range(1, len(family) + 1))
    assert problem.is_feasible(family[-1].candidate)
    assert not any(problem.is_feasible(t.candidate) for t in family[:-1])
    for before, after in pairwise(family):
        assert after.parent == before.number
        assert np.all(np.array(after.candidate.widths) <= before.candidate.widths)
    for trial in trials:
        best = max(t.metrics["top1"] for t in trials if t.origin["iteration"] == trial.origin["iteration"])
        assert (trial.number in strategy.family) == (trial.metrics["top1"] == best)
        assert (MEASURES in trial.origin) == (not problem.is_feasible(trial.candidate))


def test_weights_are_needed_until_their_iteration_is_decided() -> None:
    strategy = netadapt(line(4, 0.5, width=100))
    proposals = [strategy.ask() for _ in range(4)]
    assert strategy.ask() is None, "a barrier"
    for number, proposal in enumerate(p for p in proposals if p is not None):
        assert strategy.heirs == frozenset(range(number))
        strategy.tell(told(proposal, number, Outcome(TrialState.COMPLETE, {"top1": 0.5 + number / 100})))
    assert (strategy.family, strategy.heirs) == ((3,), frozenset())


def test_a_full_network_within_the_budget_is_the_answer() -> None:
    problem = line(4, 1.0, width=100)
    strategy = netadapt(problem)
    assert [t.candidate for t in drive(strategy, lambda w: 0.5)] == [problem.space.full]
    assert strategy.family == (0,)


# NA-11: failures


def test_a_failed_candidate_is_tried_once_more_and_then_sits_out() -> None:
    problem, failing = line(4, 0.5, width=100), 2
    strategy = netadapt(problem)

    def score(widths: IntArray) -> float | None:
        first = strategy.iteration == 1
        return None if first and widths[failing] < 100 else 0.5

    trials = drive(strategy, score)
    seen = [(t.origin["group"], t.origin["attempt"]) for t in trials if t.origin["iteration"] == 1]
    assert seen == [("g0", 1), ("g1", 1), ("g2", 1), ("g2", 2), ("g3", 1)]
    assert [t.origin["group"] for t in trials if t.origin["iteration"] == 2] == list(problem.space.names)
    assert problem.is_feasible(trials[strategy.family[-1]].candidate)


def test_where_everything_fails_it_ends() -> None:
    strategy = netadapt(line(4, 0.5, width=100))
    trials = drive(strategy, lambda w: None)
    assert strategy.finished
    assert len(trials) == 2 * 4 + 2, "each group twice, then the scaled network twice"
    assert strategy.family == ()


def test_where_the_drawn_groups_fail_the_others_are_tried() -> None:
    problem = line(10, 0.5, width=1000)
    strategy = netadapt(problem, preset="modern", trials=40)
    broken = set(range(10)) - {4}
    trials = drive(strategy, lambda w: None if strategy.iteration == 1 and any(w[g] < 1000 for g in broken) else 0.5)
    assert trials[strategy.family[0]].origin["group"] in ("g4", None), "the only group that works, or all scaled at once"
    assert problem.is_feasible(trials[strategy.family[-1]].candidate)
    assert len(trials) <= 40


def test_an_early_end_of_trials_still_meets_the_budget() -> None:
    """A third of the trials fail, so that their number does not suffice for the schedule."""
    problem = line(10, 0.5, width=1000)
    strategy = netadapt(problem, trials=210)
    count = iter(range(10_000))
    trials = drive(strategy, lambda w: None if next(count) % 3 == 0 else 0.5, most=210)
    assert strategy.finished
    assert len(trials) <= 210
    assert problem.is_feasible(trials[strategy.family[-1]].candidate)


def test_late_and_foreign_outcomes_change_nothing() -> None:
    strategy = netadapt(line(4, 0.5, width=100))
    proposal = strategy.ask()
    assert proposal is not None
    strategy.tell(told(proposal, 0, Outcome(TrialState.COMPLETE, {"top1": 0.5})))
    before = json.dumps(strategy.state_dict())
    strategy.tell(told(proposal, 0, Outcome(TrialState.COMPLETE, {"top1": 0.9})))
    strategy.tell(told(Proposal(proposal.candidate, {"iteration": 7, "group": "g0", "attempt": 1}), 3, Outcome.failed("x")))
    assert json.dumps(strategy.state_dict()) == before


@pytest.mark.parametrize("preset", NetAdapt.presets)
@pytest.mark.parametrize("after", [1, 7, 20, 45])
def test_it_is_resumed_anywhere(preset: str, after: int) -> None:
    problem = toy_problem()
    whole = run_toy(netadapt(problem, preset=preset, trials=300), 120)
    first = netadapt(problem, preset=preset, trials=300)
    done = run_toy(first, after)
    second = netadapt(problem, preset=preset, trials=300)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    numbered: list[Trial] = []
    while len(numbered) < 120 - after and (proposal := second.ask()) is not None:
        outcome = Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, proposal.candidate)})
        numbered.append(told(proposal, after + len(numbered), outcome))
        second.tell(numbered[-1])
    assert [(t.number, t.candidate, t.parent) for t in [*done, *numbered]] == [
        (t.number, t.candidate, t.parent) for t in whole
    ]


def test_its_own_thinking_takes_little() -> None:
    problem = chain([256] * 50, 0.02, step=2)
    scaled = Problem(
        problem.space, line(50, 0.02, width=256).cost, problem.objectives, (Budget("macs", max=0.5 * 50 * 256),)
    )
    strategy = netadapt(scaled, initial_reduction=0.02)
    started = time.process_time()
    trials = drive(strategy, lambda w: float(w.sum()) / 1e5, most=1000)
    assert len(trials) == 1000
    assert (time.process_time() - started) / 1000 < 0.01
