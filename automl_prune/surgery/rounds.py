"""Which units each round of a verification keeps, so that no group's fault can hide behind another's."""

from collections.abc import Mapping, Sequence

import numpy as np

from automl_prune.architecture import ChannelGroup
from automl_prune.architecture.model import IntArray

Kept = Mapping[str, IntArray]

ROUNDS = 5
"""Rounds of random company, at least; twice as many where groups could still be mistaken for each other."""


def draw_rounds(groups: Sequence[ChannelGroup], rng: np.random.Generator) -> list[Kept]:
    """Kept units by group name, round by round; a group that is not named stays whole.

    The first round cuts about half of every group, the last leaves one unit of each. In between every group draws for
    itself: whole in a third of the rounds, else any width. Any two groups get different shares in some round.
    """
    cut = [g for g in groups if g.units > 1]
    if not cut:
        return []
    drawn: list[dict[str, IntArray]] = [{} for _ in range(ROUNDS)]
    for group in cut:
        for number in rng.permutation(ROUNDS)[rng.integers(1, 3) :]:  # whole in one round or two
            drawn[number][group.name] = _narrower(rng, group.units)
    while len(drawn) < 2 * ROUNDS and _alike(cut, drawn):
        drawn.append({g.name: _narrower(rng, g.units) for g in cut if rng.random() < 2 / 3})
    return [{g.name: half(rng, g.units) for g in cut}, *filter(None, drawn), {g.name: np.zeros(1, np.int64) for g in cut}]


def half(rng: np.random.Generator, units: int) -> IntArray:
    """About half of the units, at least one kept and, where there are two, at least one cut."""
    return _some(rng, units, max(1, units // 2))


def gentle(rng: np.random.Generator, units: int) -> IntArray:
    """At least three quarters of the units, but not all."""
    return _some(rng, units, int(rng.integers(max(1, units * 3 // 4), units)))


def _narrower(rng: np.random.Generator, units: int) -> IntArray:
    """Any width but the full one; rarely so narrow that little is left to see the other groups by."""
    return _some(rng, units, 1 if rng.random() < 0.08 else int(rng.integers(max(1, units // 8), units)))


def _some(rng: np.random.Generator, units: int, count: int) -> IntArray:
    return np.sort(rng.choice(units, size=count, replace=False))


def _alike(groups: Sequence[ChannelGroup], rounds: Sequence[Kept]) -> bool:
    """Whether two groups are cut to the same share in every round."""
    shares = [tuple(len(kept[g.name]) / g.units if g.name in kept else 1.0 for kept in rounds) for g in groups]
    return len(set(shares)) < len(shares)
