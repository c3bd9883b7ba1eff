"""What cutting one group alone costs in score, at every width, from measurements at some widths.

Scores are noisy, and a network does not get better by being cut, so a measured curve is made monotone first (isotonic
regression by pooling adjacent violators, Barlow et al. 1972) and then interpolated without leaving its monotone shape
(Fritsch and Butland 1984). How far measurements ran the wrong way says how noisy they are; curves whose differences are no
more than that noise are drawn towards the mean curve of all groups (as James and Stein's estimator draws means together),
and a penalty of up to one standard error keeps cuts even, so that chance does not decide which group is cut to the bone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from automl_prune.problem import FloatArray

Points = Sequence[Mapping[int, float]]
"""Per group, the drop measured by width; the full width needs no entry, its drop is 0."""

GRID = 33
"""Relative widths at which curves of different groups are compared."""
BALANCE = 1e-9
"""Weight of the quadratic penalty on cuts where there is no noise: it only decides between widths that measure alike."""


@dataclass(frozen=True)
class Fit:
    """One group's measurements made monotone.

    Attributes:
        curve: Drops at every choice, ``[choices]``; None where nothing was measured.
        residual: Sum of squares of what was changed.
        freedom: How many measurements there are more than levels.
    """

    curve: FloatArray | None
    residual: float
    freedom: int


def drop_curves(choices: Sequence[Sequence[int]], points: Points, *, noise: float | None = None) -> list[FloatArray]:
    """Drops at every choice of every group, ``[groups][choices]``: falling with the width, 0 at the full one.

    Args:
        choices: Widths of each group, ascending.
        points: What was measured. A group without measurements gets the mean curve of those that have some.
        noise: Standard error of one drop; None estimates it.
    """
    fits, positions = _fits(choices, points), [_positions(c) for c in choices]
    error = noise_of(choices, points) if noise is None else noise
    grid = np.linspace(0, 1, GRID)
    measured = [np.interp(grid, x, fit.curve) for x, fit in zip(positions, fits, strict=True) if fit.curve is not None]
    mean = np.mean(measured, axis=0) if measured else np.zeros(GRID)
    spread = np.var(measured, axis=0) if measured else np.zeros(GRID)
    trust = np.maximum(spread - error**2, 0) / np.maximum(spread, 1e-300) if error > 0 else np.ones(GRID)
    curves = []
    for own, x, fit in zip(choices, positions, fits, strict=True):
        curve = np.interp(x, grid, mean)
        if fit.curve is not None:
            curve = curve + np.interp(x, grid, trust) * (fit.curve - curve)
        falling = np.maximum.accumulate(np.maximum(curve, 0)[::-1])[::-1]
        falling[-1] = 0.0
        curves.append(falling + (BALANCE + error) * (1 - np.asarray(own) / own[-1]) ** 2)
    return curves


def noise_of(choices: Sequence[Sequence[int]], points: Points) -> float:
    """Standard error of a drop, from what isotonic regression had to change: √(RSS / (measurements − levels)).

    0 where nothing ran the wrong way (Meyer and Woodroofe 2000 on the degrees of freedom).
    """
    fits = _fits(choices, points)
    freedom = sum(fit.freedom for fit in fits)
    return math.sqrt(sum(fit.residual for fit in fits) / freedom) if freedom else 0.0


def _fits(choices: Sequence[Sequence[int]], points: Points) -> list[Fit]:
    return [fit_group(tuple(own), tuple(sorted(p.items()))) for own, p in zip(choices, points, strict=True)]


@lru_cache(maxsize=4096)
def fit_group(choices: tuple[int, ...], measured: tuple[tuple[int, float], ...]) -> Fit:
    """Fit one group's (width, drop) pairs, ascending; remembered, as a measurement changes one group only."""
    below = [(w, drop) for w, drop in measured if w < choices[-1]]
    if not below:
        return Fit(None, 0.0, 0)
    raw = np.array([drop for _, drop in below] + [0.0])
    pooled, levels = pool_violators(raw)
    drops = np.maximum(pooled, 0.0)
    drops[-1] = 0.0
    widths = np.array([w for w, _ in below] + [choices[-1]], dtype=np.float64)
    return Fit(interpolate(choices, widths, drops), float(((raw - pooled) ** 2).sum()), len(raw) - levels)


def pool_violators(values: FloatArray) -> tuple[FloatArray, int]:
    """The nearest sequence, by least squares, that never rises; and how many levels it has."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        total, count = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] < total / count:
            before, size = blocks.pop()
            total, count = total + before, count + size
        blocks.append((total, count))
    return np.concatenate([np.full(size, total / size) for total, size in blocks] or [np.zeros(0)]), len(blocks)


def interpolate(choices: Sequence[int], widths: FloatArray, drops: FloatArray) -> FloatArray:
    """A monotone cubic through (widths, drops) at ``choices``, going on below with the steepest slope between them."""
    x = np.asarray(choices, dtype=np.float64)
    gaps = np.diff(widths)
    slopes = np.diff(drops) / gaps
    tangents = np.concatenate([slopes[:1], _between(slopes, gaps), slopes[-1:]])
    left = np.clip(np.searchsorted(widths, x, side="right") - 1, 0, len(gaps) - 1)
    t = (x - widths[left]) / gaps[left]
    inside = (
        drops[left] * (1 + 2 * t) * (1 - t) ** 2
        + drops[left + 1] * t**2 * (3 - 2 * t)
        + gaps[left] * t * (1 - t) * (tangents[left] * (1 - t) - tangents[left + 1] * t)
    )
    below = drops[0] - float(slopes.min()) * (widths[0] - x)
    result: FloatArray = np.where(x < widths[0], below, inside)
    return result


def _between(slopes: FloatArray, gaps: FloatArray) -> FloatArray:
    """Slopes at inner points: a weighted harmonic mean of those on both sides, 0 next to a flat part."""
    first, second = slopes[:-1], slopes[1:]
    weight, other = 2 * gaps[1:] + gaps[:-1], gaps[1:] + 2 * gaps[:-1]
    flat = first * second <= 0
    safe_first, safe_second = np.where(flat, 1, first), np.where(flat, 1, second)
    mean: FloatArray = (weight + other) / (weight / safe_first + other / safe_second)
    result: FloatArray = np.where(flat, 0.0, mean)
    return result


def _positions(choices: Sequence[int]) -> FloatArray:
    """Choices as 0 for the narrowest to 1 for the full width."""
    own = np.asarray(choices, dtype=np.float64)
    positions: FloatArray = (own - own[0]) / max(own[-1] - own[0], 1.0)
    return positions
