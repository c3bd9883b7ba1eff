"""Random search: every width drawn uniformly and independently, then scaled onto the budget. A control, and hard to beat."""

import numpy as np
from pydantic import Field

from automl_prune.strategies.base import STRATEGIES, Proposal, Strategy, StrategyOptions


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
        drawn, fitted = self.problem.sample(rng, fill=self.options.fill)
        return Proposal(fitted, repaired=fitted != drawn)
