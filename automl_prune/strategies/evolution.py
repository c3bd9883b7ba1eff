"""Elitist evolution of widths, with the operators of MetaPruning's search (Liu et al. 2019, arXiv 1903.10258).

The best of everything scored so far are the parents of the next generation: half of it are mutants (each width of a parent
is replaced by chance), half are crossovers (each width comes from one of two parents), and random candidates fill up where
either finds too few new ones. Nothing is evaluated twice, and everything lies within the budgets.

``published`` holds the numbers of the released search code (``search.py``): 50 candidates, 20 generations, the best 10 as
parents, 25 mutants with a rate of 0.1 per gene and 25 crossovers, at most 10 draws for each. There each gene is one of 31
ratios, here one of the widths that the space allows. Its random draws run for ever where the budget is tight; here they are
scaled into it after a while. ``published_resnet`` also draws from the middle of the choices, as that code does for ResNets;
its window of costs is a budget with ``min`` and ``max``.

``modern`` is for few evaluations: it begins with the uniform width and its surroundings, mutants step to widths nearby, and
every child is scaled to use the whole budget. What a generation asks does not depend on the order in which its trials end.

Candidates have the weights of the full network, of a PruningNet (``metapruning``), or new ones, as the recipe says. Left out
is a slimmable network trained at many widths, of which they would be slices.
"""

from collections.abc import Mapping

import numpy as np
from pydantic import Field, model_validator

from automl_prune.strategies._genetics import GenerationalOptions, GenerationalSearch, IntArray, Member, crossed, pairs
from automl_prune.strategies.base import STRATEGIES


class EvolutionOptions(GenerationalOptions):
    """Options of evolution; those of breeding are parts of the population, so that it can be changed alone."""

    parents: float = Field(0.2, gt=0, le=1, description="Part of the population, the best, that is bred from; at least 2.")
    mutants: float = Field(0.5, ge=0, le=1, description="Part of a generation that is mutated.")
    crossovers: float = Field(0.5, ge=0, le=1, description="Part of a generation that is crossed over.")

    @model_validator(mode="after")
    def _one_generation(self) -> "EvolutionOptions":
        if self.mutants + self.crossovers > 1:
            raise ValueError(
                f"mutants and crossovers are parts of one generation, but add up to {self.mutants + self.crossovers}"
            )
        if self.draw_from >= self.draw_to:
            raise ValueError(f"draw_from must lie below draw_to; came {self.draw_from} and {self.draw_to}")
        return self


_PUBLISHED = {"generations": 20, "over_budget": "reject"}


@STRATEGIES.register("evolution")
class Evolution(GenerationalSearch):
    """Elitist evolution of one objective; see the module for the presets."""

    name = "evolution"
    help = "Elitist evolution: mutants and crossovers of the best widths so far, none evaluated twice."
    paper = "Liu et al. 2019 (MetaPruning), arXiv 1903.10258"
    Options = EvolutionOptions
    presets = {
        "modern": {"population": 20, "mutation": "step", "mutation_rate": 0.2, "start": "uniform"},
        "published": _PUBLISHED,
        "published_resnet": {**_PUBLISHED, "draw_from": 0.4, "draw_to": 0.8},
    }
    default_preset = "modern"
    default_recipe = {
        "modern": {"inherit": "l1", "recalibrate_batches": 20},
        "published": {"inherit": "l1", "recalibrate_batches": 100},
        "published_resnet": {"inherit": "l1", "recalibrate_batches": 100},
    }
    grown = ("mutation", "crossover", "random")
    options: EvolutionOptions

    @property
    def best(self) -> Member | None:
        """The best of everything scored so far; the earlier one of two alike."""
        return min(self.members, key=lambda m: m.losses[0], default=None)

    def quotas(self) -> Mapping[str, int]:
        """Mutants, then crossovers; none before anything is scored."""
        parts = {"mutation": self.options.mutants, "crossover": self.options.crossovers}
        least = {"mutation": 1, "crossover": 2}
        return {o: round(part * self.options.population) for o, part in parts.items() if len(self.survivors) >= least[o]}

    def breed(self, operator: str, rng: np.random.Generator, count: int) -> tuple[IntArray, IntArray]:
        """Mutants of one parent, or crossovers of two distinct ones."""
        elite = min(len(self.survivors), max(2, round(self.options.parents * self.options.population)))
        genes = self.encode([m.widths for m in self.survivors[:elite]])
        if operator == "mutation":
            parents = rng.integers(elite, size=(count, 1))
            return self.mutate(rng, genes[parents[:, 0]]), parents
        parents = pairs(rng, count, elite)
        return crossed(rng, genes[parents[:, 0]], genes[parents[:, 1]]), parents

    def select(self, members: list[Member]) -> list[Member]:
        """The best, best first; the earlier one of two alike."""
        return sorted(members, key=lambda m: m.losses[0])[: self.options.population]
