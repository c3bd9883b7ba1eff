"""Widths from one ranking of all channels: what tools without a search do, and so a control."""

from collections.abc import Mapping, Sequence

import numpy as np

from automl_prune.problem import IntArray, Problem
from automl_prune.space import Candidate


def ranked_widths(problem: Problem, importance: Mapping[str, Sequence[float]]) -> Candidate:
    """The network left when the least important units of all groups are cut, until no maximum is exceeded.

    Where costs do not grow with widths, that is looked for cut by cut, and what is left of every group is eased into the
    maxima if need be; else by bisection.

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

    def left(cuts: IntArray) -> IntArray:
        """Widths ``[numbers, groups]`` after numbers of cuts that follow each other."""
        before = np.bincount(cut_first[: cuts[0]], minlength=len(space))
        further = np.eye(len(space))[cut_first[cuts[0] : cuts[-1]]].cumsum(axis=0)
        gone = before + np.concatenate([np.zeros((1, len(space))), further])
        return space.snap_all(np.array(space.full.widths) - gone * divisors)

    def after(cuts: int) -> Candidate:
        return Candidate(tuple(left(np.array([cuts]))[0].tolist()))

    if not problem.monotone:
        fitting = problem.first_fitting(left, np.arange(len(cut_first) + 1))
        return problem.fill(fitting or problem.eased(after(len(cut_first))))
    enough, too_few = len(cut_first), -1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        over = problem.excess(space.array([after(middle)]))[0] > 0
        enough, too_few = (enough, middle) if over else (middle, too_few)
    return problem.fill(after(enough))
