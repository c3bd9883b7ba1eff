"""Optuna's samplers behind ask and tell: the contract for each, what optuna is told, restarts, and the time they take."""

import json
import logging
import time
from typing import Any

import numpy as np
import optuna
import pytest

from automl_prune.errors import SpecError, UnknownNameError
from automl_prune.pareto import hypervolume
from automl_prune.problem import Budget, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies.base import Proposal
from automl_prune.strategies.optuna import SERVES, OptunaSearch
from automl_prune.testing import StrategyContract
from automl_prune.testing.strategy import MakeStrategy, run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState

SAMPLERS = ["tpe", "cmaes", "gp", "nsgaii", "qmc", "random"]
FAST = ["tpe", "cmaes", "nsgaii", "qmc", "random"]


def search(problem: Problem, sampler: str = "tpe", *, seed: int = 0, **options: Any) -> OptunaSearch:
    made = OptunaSearch.create(problem, seed=seed, options={"sampler": sampler, **options})
    assert isinstance(made, OptunaSearch)
    return made


def of(sampler: str, **options: int) -> dict[str, int]:
    """Those of the options that a sampler heeds."""
    return {option: value for option, value in options.items() if sampler in SERVES[option]}


def scored(problem: Problem, proposal: Proposal, number: int = 0) -> Trial:
    return told(proposal, number, Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, proposal.candidate)}))


def studied(strategy: OptunaSearch) -> list[optuna.trial.FrozenTrial]:
    """What optuna knows."""
    return strategy._study._study.get_trials(deepcopy=False)


def restored(strategy: OptunaSearch) -> OptunaSearch:
    """The strategy as it comes back from bytes."""
    made = OptunaSearch(strategy.problem, strategy.options, seed=strategy.seed)
    made.load_state_dict(json.loads(json.dumps(strategy.state_dict(), allow_nan=False).encode()))
    return made


@pytest.mark.parametrize("sampler", FAST)
class TestContract(StrategyContract):
    @pytest.fixture
    def make_strategy(self, sampler: str) -> MakeStrategy:
        return lambda problem, seed: search(problem, sampler, seed=seed)

    learns = False  # tested below, and that of tpe in test_contract.py, as it is the default


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "evaluations"), [("cmaes", 100), ("nsgaii", 300)])
def test_what_it_learns_beats_random_draws(sampler: str, evaluations: int) -> None:
    """At 100 evaluations, five generations, NSGA-II is no better than random draws on this toy."""
    contract = StrategyContract()
    contract.learning_evaluations = evaluations
    contract.test_beats_random_at_equal_evaluations(lambda problem, seed: search(problem, sampler, seed=seed))


# What optuna is told


@pytest.mark.parametrize("sampler", FAST)
def test_optuna_records_the_repaired_candidate(sampler: str) -> None:
    problem = toy_problem()
    strategy = search(problem, sampler)
    trials = run_toy(strategy, 30)
    assert any(t.repaired for t in trials)
    recorded = [tuple(round(t.params[name]) for name in problem.space.names) for t in studied(strategy)]
    assert recorded == [t.candidate.widths for t in trials]
    assert [t.value for t in studied(strategy)] == [-t.metrics["top1"] for t in trials]


@pytest.mark.parametrize("sampler", FAST)
def test_trials_in_flight_are_running_and_not_asked_twice(sampler: str) -> None:
    problem = toy_problem(groups=4)
    strategy = search(problem, sampler)
    run_toy(strategy, 15)
    flying = [strategy.ask() for _ in range(8)]
    assert len({p.candidate for p in flying if p is not None}) == 8
    assert [t.state.name for t in studied(strategy)] == ["COMPLETE"] * 15 + ["RUNNING"] * 8


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(TrialState.COMPLETE, {"top1": 0.5}), "COMPLETE"),
        (Outcome(TrialState.COMPLETE, {"top5": 0.5}), "FAIL"),
        (Outcome(TrialState.COMPLETE, {"top1": float("nan")}), "FAIL"),
        (Outcome(TrialState.STOPPED, {"top1": 0.5}), "PRUNED"),
        (Outcome(TrialState.INFEASIBLE), "PRUNED"),
        (Outcome(TrialState.CANCELLED), "FAIL"),
        (Outcome.failed("worker lost"), "FAIL"),
    ],
)
def test_every_ending_has_its_state(outcome: Outcome, state: str) -> None:
    strategy = search(toy_problem())
    proposal = strategy.ask()
    assert proposal is not None
    strategy.tell(told(proposal, 0, outcome))
    assert [t.state.name for t in studied(strategy)] == [state]


def test_a_trial_told_twice_counts_once() -> None:
    problem = toy_problem()
    strategy = search(problem)
    trials = run_toy(strategy, 3)
    strategy.tell(trials[1])
    assert len(studied(strategy)) == 3


def test_the_told_candidate_counts_not_the_asked_one() -> None:
    problem = toy_problem()
    strategy = search(problem)
    proposal = strategy.ask()
    assert proposal is not None
    strategy.tell(scored(problem, Proposal(problem.space.narrowest, proposal.origin)))
    failed, learned = studied(strategy)
    assert failed.state.name == "FAIL"
    assert set(learned.params.values()) == {1.0}


def test_foreign_candidates_outside_the_space_are_ignored() -> None:
    strategy = search(toy_problem(width=8))
    outcome = Outcome(TrialState.COMPLETE, {"top1": 0.9})
    strategy.tell(Trial(7, Candidate((9,) * 8)).with_outcome(outcome))
    assert studied(strategy) == []


# Starting, budgets and spaces


def test_it_starts_from_the_uniform_width() -> None:
    problem = toy_problem()
    assert run_toy(search(problem), 1)[0].candidate == problem.widest_uniform
    assert run_toy(search(problem, include_uniform=False), 1)[0].candidate != problem.widest_uniform


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_listed_widths_single_widths_and_minima_are_kept(sampler: str) -> None:
    names = ("a", "b", "c", "d")
    space = ChannelSpace(names, ((3, 4, 9, 32), (16,), (1, 2, 64), (8, 16, 24, 32)))
    problem = Problem(space, lambda w: {"macs": w.sum(axis=1).astype(float)}, budgets=(Budget("macs", max=90, min=80),))
    trials = run_toy(search(problem, sampler, **of(sampler, startup=5)), 8)
    assert all(t.candidate in space and problem.is_feasible(t.candidate) for t in trials)


@pytest.mark.parametrize("sampler", FAST)
def test_a_space_smaller_than_the_search_ends_in_repetitions(sampler: str) -> None:
    space = ChannelSpace(("a", "b"), ((1, 2), (5,)))
    problem = Problem(space, lambda w: {"macs": w.sum(axis=1).astype(float)})
    assert len({t.candidate for t in run_toy(search(problem, sampler), 30)}) == 2


def test_it_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        for sampler in SAMPLERS:
            run_toy(search(toy_problem(groups=3), sampler, **of(sampler, startup=3)), 5)
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""


# Several losses


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_costs_are_minimised_beside_the_score(sampler: str) -> None:
    problem = toy_problem(groups=4, budget=None)
    strategy = search(problem, sampler, costs=["macs"], **of(sampler, population=8))
    trials = run_toy(strategy, 120)
    losses = np.array([t.values for t in studied(strategy)])
    assert losses[:, 0].tolist() == [-t.metrics["top1"] for t in trials]
    assert losses[:, 1].tolist() == [problem.costs(t.candidate)["macs"] for t in trials]


@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.slow), "nsgaii"])
def test_their_front_covers_more_than_random_draws(sampler: str) -> None:
    problem = toy_problem(groups=4, budget=None)
    full = problem.costs(problem.space.full)["macs"]

    def covered(name: str, seed: int) -> float:
        trials = run_toy(search(problem, name, seed=seed, costs=["macs"], **of(name, population=10)), 120)
        points = [[-t.metrics["top1"], problem.costs(t.candidate)["macs"] / full] for t in trials]
        return hypervolume(points, [-0.5, 1.0])

    ours, random = (np.mean([covered(name, seed) for seed in range(3)]) for name in (sampler, "random"))
    assert ours > random


def test_cmaes_takes_the_first_of_several_objectives() -> None:
    problem = toy_problem()
    both = Problem(problem.space, problem.cost, (Objective("top1"), Objective("loss", maximize=False)), problem.budgets)
    strategy = search(both, "cmaes")
    proposal = strategy.ask()
    assert proposal is not None
    strategy.tell(told(proposal, 0, Outcome(TrialState.COMPLETE, {"top1": 0.5, "loss": 2.0})))
    assert [t.values for t in studied(strategy)] == [[-0.5]]


def test_bad_options_are_refused() -> None:
    problem = toy_problem()
    with pytest.raises(SpecError, match="cmaes has one objective"):
        search(problem, "cmaes", costs=["macs"])
    with pytest.raises(UnknownNameError, match="known: macs") as caught:
        search(problem, "nsgaii", costs=["mac"])
    assert caught.value.pointer == "/strategy/options/costs/0"
    with pytest.raises(SpecError, match="'tpe'"):
        search(problem, "annealing")
    with pytest.raises(SpecError, match="each cost is minimised once, and macs came more often") as twice:
        search(problem, costs=["macs", "macs"])
    assert [e.pointer for e in twice.value.errors] == ["/strategy/options/costs"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("option", list(SERVES))
def test_options_that_a_sampler_does_not_heed_are_refused(sampler: str, option: str) -> None:
    if sampler in SERVES[option]:
        assert search(toy_problem(), sampler, **{option: 20})
        return
    with pytest.raises(SpecError, match=f"leave it out with {sampler}") as caught:
        search(toy_problem(), sampler, **{option: 20})
    assert [e.pointer for e in caught.value.errors] == [f"/strategy/options/{option}"]


# Restarts


@pytest.mark.parametrize("sampler", FAST)
def test_restored_again_and_again_with_losses_on_the_way_it_asks_the_same(sampler: str) -> None:
    """One of two histories is broken off every few steps, with trials lost, failed, stopped and out of order."""
    problem = toy_problem(groups=4)
    whole, broken = (search(problem, sampler, seed=2, **of(sampler, population=6, memory=20)) for _ in range(2))
    rng, flying = np.random.default_rng(1), list[Proposal]()
    for step in range(70):
        expected, actual = whole.ask(), broken.ask()
        assert expected == actual
        assert expected is not None
        flying.append(expected)
        while len(flying) > 3:
            proposal = flying.pop(int(rng.integers(len(flying))))
            state = TrialState(rng.choice(["complete"] * 4 + ["failed", "stopped", "infeasible"]))
            if rng.random() < 0.9:  # the others are never heard of again
                for strategy in (whole, broken):
                    outcome = Outcome(state, {"top1": toy_score(problem, proposal.candidate)})
                    strategy.tell(told(proposal, step, outcome))
        if step % 7 == 0:
            broken = restored(broken)
            assert broken.state_dict() == whole.state_dict()


def test_a_restored_gaussian_process_asks_the_same() -> None:
    problem = toy_problem(groups=3)
    original = search(problem, "gp", startup=4)
    run_toy(original, 6)
    flying = original.ask()
    again = restored(original)
    assert [original.ask() for _ in range(2)] == [again.ask() for _ in range(2)]
    for strategy in (original, again):
        assert flying is not None
        strategy.tell(scored(problem, flying))
    assert original.ask() == again.ask()


def test_nothing_kept_is_a_pickle() -> None:
    strategy = search(toy_problem(), "cmaes")
    run_toy(strategy, 40)
    assert set(strategy.state_dict()) == {"asked", "past"}
    assert {event[0] for event in strategy.state_dict()["past"]} == {"put", "ask", "tell"}


# Learning and time


@pytest.mark.slow
def test_the_gaussian_process_beats_random_draws() -> None:
    problem = toy_problem(groups=4)

    def best(name: str, seed: int) -> float:
        trials = run_toy(search(problem, name, seed=seed, include_uniform=False, **of(name, startup=5)), 15)
        return max(t.metrics["top1"] for t in trials)

    ours, random = (np.mean([best(name, seed) for seed in range(3)]) for name in ("gp", "random"))
    assert ours > random


def test_models_see_the_best_half_and_the_latest_half() -> None:
    problem = toy_problem()
    strategy = search(problem, "tpe", memory=20)
    trials = run_toy(strategy, 60)
    strategy.ask()
    seen = [t.number for t in studied(strategy)]
    best = sorted(range(50), key=lambda n: -trials[n].metrics["top1"])[:10]
    assert seen == sorted(best) + list(range(50, 61))


@pytest.mark.parametrize(
    ("sampler", "milliseconds"),
    [
        ("tpe", 200),
        *(pytest.param(sampler, 60, marks=pytest.mark.slow) for sampler in ("cmaes", "nsgaii", "qmc", "random")),
    ],
)
def test_own_time_at_a_thousand_trials(sampler: str, milliseconds: int) -> None:
    """Mean processor time of an ask and a tell, 50 groups, after a thousand trials told; the bounds are generous."""
    problem = toy_problem(groups=50, width=64)
    strategy = search(problem, sampler)
    rng = np.random.default_rng(0)
    for number, widths in enumerate(rng.integers(1, 65, (1000, 50)).tolist()):
        strategy.tell(
            Trial(number, Candidate(tuple(widths))).with_outcome(Outcome(TrialState.COMPLETE, {"top1": rng.random()}))
        )
    started = time.process_time()
    run_toy(strategy, 20)
    assert (time.process_time() - started) / 20 < milliseconds / 1000
