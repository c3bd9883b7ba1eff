"""A problem whose cost does not grow with widths, as latencies do not: widths that 16 or 4 divide are faster."""

import numpy as np

from automl_prune.problem import Budget, FloatArray, IntArray, Objective, Problem
from automl_prune.space import ChannelSpace

SLOWER = (1.0, 1.2, 1.7)
"""What a channel takes in a layer whose width 16, 4 or neither divides."""


def jagged_cost(widths: IntArray) -> dict[str, FloatArray]:
    """Costs of a chain, each ``[candidates]``; ``ms`` depends on what divides the widths, ``macs`` does not."""
    slower = np.select([widths % 16 == 0, widths % 4 == 0], SLOWER[:2], SLOWER[2])
    ends = np.ones((len(widths), 1))
    padded, felt = (
        np.concatenate([3 * ends, inner, 10 * ends], axis=1) for inner in (widths.astype(float), widths * slower)
    )
    return {"ms": (felt[:, 1:] * felt[:, :-1]).sum(axis=1), "macs": (padded[:, 1:] * padded[:, :-1]).sum(axis=1)}


def jagged_problem(groups: int = 4, width: int = 32, *, budget: float = 0.5, least: int = 1, floor: float = 0.0) -> Problem:
    """Groups of ``least`` to ``width`` channels; ``budget`` and ``floor`` are parts of the full network's ms."""
    names = tuple(f"layer{g}" for g in range(groups))
    space = ChannelSpace(names, (tuple(range(least, width + 1)),) * groups)
    full = float(jagged_cost(space.array([space.full]))["ms"][0])
    budgets = (Budget("ms", max=budget * full, min=floor * full, grows=False),)
    return Problem(space, jagged_cost, (Objective("top1"),), budgets)
