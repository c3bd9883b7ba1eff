"""A Gaussian process over widths: what a network would score, and how sure that is, from the trials seen.

The score of a network is modelled as a constant, a multiple of the drop that the sensitivity curves predict, a straight line
and a parabola in each group's cut, and a smooth function of all cuts together that holds their interactions (Rasmussen and
Williams 2006, chapters 2 and 5; additive and joint parts side by side after Duvenaud et al. 2011, arXiv 1112.4394). How much
of each there is, and how noisy scores are, is what makes the seen scores most likely, out of a small grid.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import erfc, erfcx

from automl_prune.problem import FloatArray

CONSTANT = 100.0
"""Prior variance of the constant, in variances of the scores: it is free."""
TRUST = 1.0
"""Prior variance of the factor on predicted drops, around 1."""
ADDITIVE, JOINT = (0.03, 0.3, 3.0), (0.1, 1.0)
"""Prior variances of the additive and of the joint part, in variances of the scores."""
LENGTHS = (0.15, 0.4)
"""Root mean square distances of cuts over which the joint part changes."""
NOISES = (1e-4, 0.03, 0.3)
"""Variances of noise, in variances of the scores."""


@dataclass(frozen=True)
class Scales:
    """Hyperparameters: prior variances and the length, as in the module's constants."""

    additive: float
    joint: float
    length: float
    noise: float


GRID = tuple(Scales(*values) for values in product(ADDITIVE, JOINT, LENGTHS, NOISES))


class Surrogate:
    """Fitted to ``cuts`` ``[n, groups]`` (0 is full, 1 is nothing left), predicted ``drops`` ``[n]`` and ``scores`` ``[n]``.

    Args:
        cuts, drops, scores: What was seen; higher scores are better.
        scales: Hyperparameters; None chooses them by marginal likelihood.
    """

    def __init__(self, cuts: FloatArray, drops: FloatArray, scores: FloatArray, scales: Scales | None = None) -> None:
        self.cuts, self.drops = cuts, drops
        self.unit = max(float(np.std(scores)), float(np.std(drops)), 1e-9)
        self.centre = float(np.mean(scores + drops))
        self.residual = (scores + drops - self.centre) / self.unit
        parts = self._parts(cuts, drops)
        self.scales = scales or max(GRID, key=lambda s: self._evidence(parts, s))
        self._factor = self._factorised(parts, self.scales)
        self._alpha = cho_solve(self._factor, self.residual)

    def predict(self, cuts: FloatArray, drops: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the noiseless scores of other networks, each ``[m]``."""
        across = self._mixed(self._parts(cuts, drops), self.scales)
        inner = solve_triangular(self._factor[0], across.T, lower=True, check_finite=False)
        mean = self.centre - drops + self.unit * (across @ self._alpha)
        variance = self._own(cuts, drops) - (inner**2).sum(axis=0)
        return mean, self.unit * np.sqrt(np.maximum(variance, 1e-12))

    def slopes(self) -> tuple[FloatArray, FloatArray, float]:
        """The additive part: lines and parabolas per group ``[groups]``, and the factor on predicted drops."""
        weight = self.unit * self.scales.additive / self.cuts.shape[1]
        factor = 1 - TRUST * float(self.drops @ self._alpha) / self.unit
        return weight * (self.cuts.T @ self._alpha), weight * ((self.cuts**2).T @ self._alpha), factor

    def _parts(self, cuts: FloatArray, drops: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Products of drops and of lines with parabolas, and mean square distances, to what was seen; ``[m, n]`` each."""
        groups = cuts.shape[1]
        linear = cuts @ self.cuts.T
        scaled = drops[:, None] * self.drops[None] / self.unit**2
        additive = (linear + (cuts**2) @ (self.cuts**2).T) / groups
        distance = ((cuts**2).sum(axis=1)[:, None] + (self.cuts**2).sum(axis=1)[None] - 2 * linear) / groups
        return scaled, additive, np.maximum(distance, 0.0)

    def _mixed(self, parts: tuple[FloatArray, FloatArray, FloatArray], s: Scales) -> FloatArray:
        scaled, additive, distance = parts
        joint: FloatArray = s.joint * np.exp(-distance / (2 * s.length**2))
        return CONSTANT + TRUST * scaled + s.additive * additive + joint

    def _own(self, cuts: FloatArray, drops: FloatArray) -> FloatArray:
        """Prior variances, ``[m]``."""
        additive = (cuts**2 + cuts**4).mean(axis=1)
        own: FloatArray = CONSTANT + TRUST * (drops / self.unit) ** 2 + self.scales.additive * additive + self.scales.joint
        return own

    def _factorised(self, parts: tuple[FloatArray, FloatArray, FloatArray], s: Scales) -> tuple[FloatArray, bool]:
        matrix = self._mixed(parts, s)
        matrix[np.diag_indices_from(matrix)] += s.noise + 1e-6
        factor, lower = cho_factor(matrix, lower=True, check_finite=False)
        return factor, lower

    def _evidence(self, parts: tuple[FloatArray, FloatArray, FloatArray], s: Scales) -> float:
        """Logarithm of the marginal likelihood, without its constant."""
        factor = self._factorised(parts, s)
        alpha = cho_solve(factor, self.residual, check_finite=False)
        return -0.5 * float(self.residual @ alpha) - float(np.log(np.diag(factor[0])).sum())


def log_expected_improvement(mean: FloatArray, deviation: FloatArray, best: float) -> FloatArray:
    """Logarithm of the expected improvement over ``best`` (Jones et al. 1998), without underflow (Ament et al. 2023)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    cumulative = 0.5 * erfc(-z / math.sqrt(2))
    near = np.log(np.maximum(density + z * cumulative, 1e-300))
    ratio = 1 + z * math.sqrt(math.pi / 2) * erfcx(-np.minimum(z, 0) / math.sqrt(2))
    far = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + np.log(np.maximum(ratio, 1e-300))
    result: FloatArray = np.log(deviation) + np.where(z > -5, near, far)
    return result
