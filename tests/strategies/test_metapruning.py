"""MetaPruning's second stage is evolution; here is what is its own. Its first is tested in tests/loop."""

import time

import pytest

from automl_prune.evaluation.recipe import Recipe
from automl_prune.problem import Problem
from automl_prune.space import ChannelSpace
from automl_prune.strategies.base import STRATEGIES
from automl_prune.strategies.evolution import Evolution, EvolutionOptions
from automl_prune.strategies.metapruning import MetaPruning
from automl_prune.testing.strategy import run_toy, toy_problem


@pytest.mark.parametrize("preset", ["published", "published_resnet"])
def test_the_published_search(preset: str) -> None:
    """Section 6.5: 50 x 20, 10 parents, 25 mutants at 0.1, 25 crossovers, draws until they fit."""
    options = MetaPruning.create(toy_problem(), preset=preset).options
    assert isinstance(options, EvolutionOptions)
    assert (options.population, options.generations, options.mutation_rate) == (50, 20, 0.1)
    assert [round(part * 50) for part in (options.parents, options.mutants, options.crossovers)] == [10, 25, 25]
    assert (options.mutation, options.over_budget, options.start) == ("resample", "reject", "anywhere")


def test_genes_of_resnets_come_from_the_middle_at_first() -> None:
    """Section 3.1: from 12 to 23 of 31."""
    space = ChannelSpace(("a", "b"), (tuple(range(1, 32)),) * 2)
    problem = Problem(space, lambda w: {"macs": w.sum(axis=1).astype(float)})
    strategy = MetaPruning.create(problem, preset="published_resnet")
    asked = [p.candidate for p in iter(strategy.ask, None)]
    assert len(asked) == 50
    assert {w - 1 for c in asked for w in c.widths} == set(range(12, 24))


@pytest.mark.parametrize(
    ("preset", "epochs", "lr", "schedule", "weight_decay", "batches"),
    [
        ("published", 64, 0.25, "linear", 4e-5, 100),
        ("published_resnet", 32, 0.1, "steps", 1e-4, 100),
        ("modern", 30, 0.1, "cosine", 1e-4, 20),
    ],
)
def test_recipes(preset: str, epochs: int, lr: float, schedule: str, weight_decay: float, batches: int) -> None:
    """Section 6.4."""
    recipe = Recipe.model_validate(MetaPruning.recipe(preset))
    net = recipe.hypernetwork
    assert (recipe.inherit, recipe.recalibrate_batches, recipe.fine_tune.steps) == ("hypernetwork", batches, 0)
    assert (net.epochs, net.lr, net.schedule, net.weight_decay) == (epochs, lr, schedule, weight_decay)
    assert (net.label_smoothing, net.momentum, net.hidden, net.affine) == (0.1, 0.9, 32, False)


def test_it_asks_as_evolution_does() -> None:
    problem = toy_problem()
    ours, theirs = (run_toy(kind.create(problem, seed=2), 60) for kind in (MetaPruning, Evolution))
    assert [t.candidate for t in ours] == [t.candidate for t in theirs]
    assert STRATEGIES.get("metapruning") is MetaPruning


def test_its_own_thinking_is_fast() -> None:
    strategy = MetaPruning.create(toy_problem(groups=50, width=32), seed=0)
    start = time.process_time()
    run_toy(strategy, 1000)
    assert time.process_time() - start < 20
