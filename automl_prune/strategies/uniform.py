"""Uniform width: the same ratio in every group, the widest that fits. One candidate, and the control to beat."""

import numpy as np

from automl_prune.strategies.base import STRATEGIES, Proposal, Strategy


@STRATEGIES.register("uniform")
class UniformWidth(Strategy):
    """Asks once for the widest network with one ratio everywhere."""

    name = "uniform"
    help = "One ratio for every group, the widest that fits; a single candidate."
    paper = "Howard et al. 2017 (width multiplier), arXiv 1704.04861"

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The uniform candidate, once."""
        return None if self.asked else Proposal(self.problem.widest_uniform)

    @property
    def finished(self) -> bool:
        """Whether the candidate was asked for."""
        return self.asked > 0
