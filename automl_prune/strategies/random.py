"""Random search: every width drawn uniformly and independently, then scaled onto the budget. A control, and hard to beat."""

import numpy as np
from pydantic import Field

from automl_prune.errors import BudgetError
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import STRATEGIES, Proposal, Strategy, StrategyOptions

TRIES = 200
"""Draws before a budget with a lower bound counts as unreachable by sampling."""


class RandomOptions(StrategyOptions):
    """Options of random search."""

    fill: bool = Field(True, description="Scale narrow draws up until the budget is used, not only wide ones down.")


@STRATEGIES.register("random")
class RandomSearch(Strategy):
    """Independent uniform widths, scaled by one factor to the budget."""

    name = "random"
    help = "Independent random widths at the budget; the control every strategy must beat."
    paper = "Bergstra & Bengio 2012, JMLR 13"
    Options = RandomOptions
    options: RandomOptions

    def propose(self, rng: np.random.Generator) -> Proposal:
        """A fresh draw."""
        drawn, fitted = feasible_sample(self.problem, rng, fill=self.options.fill)
        return Proposal(fitted, repaired=fitted != drawn)


def feasible_sample(problem: Problem, rng: np.random.Generator, *, fill: bool = True) -> tuple[Candidate, Candidate]:
    """A uniform draw, and the same draw scaled into every budget; raises BudgetError after ``TRIES`` draws."""
    for _ in range(TRIES):
        drawn = Candidate(tuple(int(rng.choice(c)) for c in problem.space.choices))
        fitted = problem.fit(drawn, grow=fill)
        if problem.is_feasible(fitted):
            return drawn, fitted
    raise BudgetError(
        f"None of {TRIES} random candidates could be scaled into the budgets; widen the range between min and max.",
        pointer="/budgets",
    )
