"""Every registered strategy keeps the contract; a new one is found here without a change."""

from typing import Any

import pytest

from automl_prune.errors import BudgetError, SpecError
from automl_prune.problem import Problem
from automl_prune.strategies.base import MEASURES, STRATEGIES, Strategy
from automl_prune.testing import StrategyContract
from automl_prune.testing.strategy import MakeStrategy, run_toy, told, toy_problem, toy_score
from automl_prune.trial import Outcome, TrialState

DO_NOT_LEARN = {"random", "uniform"}
QUICK_LEARNERS = {"auto": 80, "optuna": 80, "amc": 150}
SLOW_LEARNERS = {(name, preset) for name in ("evolution", "metapruning") for preset in ("published", "published_resnet")}
BEYOND_REACH = {("abc", "published"), ("amc", "published"), ("nsga2", "published")}
"""The papers' own settings: 17 evaluations, a quarter of 400 at random and below the budget, and three generations spread
over a whole front, are no match for random draws at the budget."""
REFUSES = {("amc", "published", 0.04)}
"""Nothing that keeps a fifth of every width fits into this budget."""
WITHOUT_CHANCE = {("sensitivity", "published"), ("netadapt", "published"), ("netadapt", "modern")}
CASES = [(name, preset) for name in STRATEGIES for preset in STRATEGIES.get(name).presets]


@pytest.mark.parametrize(("name", "preset"), CASES)
class TestEveryStrategy(StrategyContract):
    @pytest.fixture
    def make_strategy(self, name: str, preset: str) -> MakeStrategy:
        def make(problem: Problem, seed: int) -> Strategy:
            return STRATEGIES.get(name).create(problem, seed=seed, preset=preset)

        return make

    @pytest.fixture(autouse=True)
    def _what_it_learns(self, name: str, preset: str) -> None:
        slow = (name, preset) in SLOW_LEARNERS or name == "abc"
        self.learning_evaluations = 600 if slow else QUICK_LEARNERS.get(name, 300)
        self.learns = name not in DO_NOT_LEARN and (name, preset) not in BEYOND_REACH
        self.chance = (name, preset) not in WITHOUT_CHANCE


TRIALS = 60
DIVIDED: dict[tuple[str, str], tuple[dict[str, Any], str, set[Any]]] = {
    ("amc", "modern"): ({"warmup": 5, "hidden": 16, "updates": 2}, "phase", {"explore", "exploit"}),
    ("amc", "published"): ({"warmup": 5, "hidden": 16, "updates": 2}, "phase", {"explore", "exploit"}),
    ("auto", "default"): ({}, "phase", {"surrogate", "confirm"}),
    ("netadapt", "modern"): ({}, "iteration", {1, 4}),
    ("netadapt", "published"): ({"initial_reduction": 0.12, "decay": 1.0}, "iteration", {1, 4}),
    ("optuna", "default"): ({"sampler": "gp", "startup": 5, "memory": 20}, "sampler", {"uniform", "gp"}),
    ("sensitivity", "modern"): ({}, "phase", {"measure", "solution", "nearby"}),
    ("sensitivity", "published"): ({}, "phase", {"measure", "solution"}),
}
"""Strategies that divide up the trials they know of, and one whose model takes long; with options that let them come to
their last phase within so few, and what its trials then say of it."""
SLOW = {("amc", "published"), ("optuna", "default"), ("sensitivity", "published")}
"""Too long for every day, or much like another."""


@pytest.mark.parametrize(
    ("name", "preset"), [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in DIVIDED]
)
class TestWithTrialsToDivide(StrategyContract):
    learns = False

    @pytest.fixture
    def make_strategy(self, name: str, preset: str) -> MakeStrategy:
        options, *_ = DIVIDED[name, preset]

        def make(problem: Problem, seed: int) -> Strategy:
            return STRATEGIES.get(name).create(problem, seed=seed, preset=preset, options=options, trials=TRIALS)

        return make

    @pytest.fixture(autouse=True)
    def _what_it_does(self, name: str, preset: str) -> None:
        self.evaluations = 20 if name == "optuna" else TRIALS
        self.chance = preset == "modern" or name in ("amc", "auto", "optuna")

    def test_it_comes_to_its_last_phase(self, make_strategy: MakeStrategy, name: str, preset: str) -> None:
        """So that what is restored above is what it seems to be."""
        _, note, expected = DIVIDED[name, preset]
        assert expected <= {t.origin.get(note) for t in run_toy(make_strategy(toy_problem(), 3), self.evaluations)}


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_it_says_what_it_is(name: str, preset: str) -> None:
    strategy = STRATEGIES.get(name)
    assert strategy.name == name
    assert strategy.help.endswith(".")
    assert strategy.paper
    schema = strategy.Options.model_json_schema()
    assert all("description" in p and "default" in p for p in schema.get("properties", {}).values())


@pytest.mark.parametrize("budget", [0.04, 0.1, 0.9, 1.0])
@pytest.mark.parametrize(("name", "preset"), CASES)
def test_tight_and_loose_budgets_are_kept(name: str, preset: str, budget: float) -> None:
    problem = toy_problem(groups=5, width=12, budget=budget)
    if (name, preset, budget) in REFUSES:
        with pytest.raises(BudgetError):
            STRATEGIES.get(name).create(problem, preset=preset)
        return
    trials = run_toy(STRATEGIES.get(name).create(problem, preset=preset), 40)
    assert trials
    assert all(problem.is_feasible(t.candidate) or MEASURES in t.origin for t in trials)


OPENINGS: list[tuple[str, str | None, dict[str, Any], int]] = [
    ("abc", None, {}, 10), ("abc", "published", {}, 3), ("amc", None, {"warmup": 7, "hidden": 8}, 7),
    ("evolution", None, {}, 20), ("evolution", "published", {}, 50), ("metapruning", "published_resnet", {}, 50),
    ("nsga2", None, {}, 20), ("nsga2", "published", {}, 100),
    ("optuna", None, {}, 10), ("optuna", None, {"sampler": "nsgaii"}, 21), ("optuna", None, {"sampler": "cmaes"}, 11),
    ("optuna", None, {"sampler": "cmaes", "population": 6, "include_uniform": False}, 6),
]  # fmt: skip
"""A preset, options, and the trials before any that was learned from others."""


@pytest.mark.parametrize(("name", "preset", "options", "opening"), OPENINGS)
def test_what_ends_with_its_opening_is_refused(name: str, preset: str | None, options: dict[str, Any], opening: int) -> None:
    def make(trials: int) -> Strategy:
        return STRATEGIES.get(name).create(toy_problem(), preset=preset, options=options, trials=trials)

    with pytest.raises(SpecError, match=f"first {opening} trials .* Raise it above {opening}, or lower") as caught:
        make(opening)
    assert [(e.pointer, e.code) for e in caught.value.errors] == [("/trials/max", "too_few_trials")]
    strategies = [make(opening + 1) for _ in range(2)]
    for number in range(opening):
        asked = [strategy.ask() for strategy in strategies]
        assert asked[0] == asked[1]
        assert asked[0] is not None
        for strategy, sign in zip(strategies, (1, -1), strict=True):
            score = 0.5 + sign * (toy_score(strategy.problem, asked[0].candidate) - 0.5)
            strategy.tell(told(asked[0], number, Outcome(TrialState.COMPLETE, {"top1": score})))


@pytest.mark.parametrize("trials", [21, 60, 100])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_default_goes_with_a_small_search(name: str, trials: int) -> None:
    assert STRATEGIES.get(name).create(toy_problem(), trials=trials).trials == trials
