"""Widths from one ranking of all channels: what tools without a search do, and so a control."""

from collections.abc import Mapping, Sequence

import numpy as np

from automl_prune.problem import Problem
from automl_prune.space import Candidate


def ranked_widths(problem: Problem, importance: Mapping[str, Sequence[float]]) -> Candidate:
    """The network left when the least important units of all groups are cut, until no maximum is exceeded.

    Widths are snapped to the space's choices, so no group falls below its minimum; costs are the true ones. Where a minimum
    is missed then, groups are widened one after the other until it is not.

    Args:
        problem: What is searched.
        importance: Of each unit, by searched group, comparable between groups. Of two alike the later group's, and in a
            group the later unit, goes first.
    """
    space = problem.space
    scores = [np.asarray(importance[name], dtype=np.float64) for name in space.names]
    group = np.repeat(np.arange(len(space)), [len(s) for s in scores])
    cut_first = group[::-1][np.argsort(np.concatenate(scores)[::-1], kind="stable")]
    divisors = np.array(space.full.widths) / [len(s) for s in scores]

    def after(cuts: int) -> Candidate:
        gone = np.bincount(cut_first[:cuts], minlength=len(space))
        return space.snap(np.array(space.full.widths) - gone * divisors)

    enough, too_few = len(cut_first), -1
    while enough - too_few > 1:  # costs fall with every cut
        middle = (enough + too_few) // 2
        over = problem.excess(space.array([after(middle)]))[0] > 0
        enough, too_few = (enough, middle) if over else (middle, too_few)
    return problem.fill(after(enough))
