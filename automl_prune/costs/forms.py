"""Sizes as functions of widths: runs of units are linear forms in ``(1, widths)``, what they span are quadratic ones."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture, Run
from automl_prune.errors import TraceError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def with_constant(widths: npt.NDArray[np.int64]) -> FloatArray:
    """What forms are applied to: ``(1, widths)``, ``[candidates, 1 + groups]``, of ``widths`` ``[candidates, groups]``."""
    return np.concatenate([np.ones((len(widths), 1)), np.asarray(widths, dtype=np.float64)], axis=1)


class Sizes:
    """How many entries runs of units have, as linear forms.

    Args:
        architecture: What the units are of.
        columns: The place of each group that varies among the widths, by name; every other group keeps its full width.
    """

    def __init__(self, architecture: Architecture, columns: Mapping[str, int]) -> None:
        groups = architecture.groups
        self.size = 1 + len(columns)
        self._owner = architecture.owner
        self._share = np.zeros((len(groups), self.size))  # of one entry of a group, in each column
        for row, group in enumerate(groups):
            if group.name in columns:
                self._share[row, 1 + columns[group.name]] = 1 / group.width
            else:
                self._share[row, 0] = 1

    def of(self, axes: Sequence[Sequence[Run]]) -> FloatArray:
        """The size of each axis, ``[axes, 1 + widths]``."""
        runs = np.array([(i, r.start, r.count, r.repeat) for i, a in enumerate(axes) for r in a], np.int64).reshape(-1, 4)
        axis, start, count, repeat = runs.T
        units = np.arange(count.sum()) + np.repeat(start - count.cumsum() + count, count)
        groups = len(self._share)
        places = np.repeat(axis, count) * groups + self._owner[units]
        entries = np.bincount(places, np.repeat(repeat, count), minlength=len(axes) * groups)
        form: FloatArray = entries.reshape(len(axes), groups) @ self._share
        return form

    def spanned(self, what: Sequence[str], axes: Sequence[Sequence[Sequence[Run]]], times: Sequence[int]) -> "Spanned":
        """``times`` the products of sizes, of which at most two vary.

        Args:
            what: Names for the errors.
            axes: The runs along each axis of each product.
            times: What each product is multiplied by.

        Raises:
            TraceError: More than two sizes of one product vary.
        """
        sizes = self.of([runs for product in axes for runs in product])
        varies: BoolArray = np.any(sizes[:, 1:], axis=1)
        factors = np.zeros((2, len(axes), self.size))
        factors[:, :, 0] = 1
        row = 0
        for i, product in enumerate(axes):
            rows = np.arange(row, row + len(product))
            row += len(product)
            varying = rows[varies[rows]]
            if len(varying) > 2:
                raise TraceError(f"{what[i]} has {len(varying)} axes that vary; costs need at most 2.")
            factors[: len(varying), i] = sizes[varying]
            factors[0, i] *= times[i] * math.prod(sizes[rows[~varies[rows]], 0])
        return Spanned(*factors)


class Spanned:
    """Products of two linear forms each, ``[products, 1 + widths]`` twice."""

    def __init__(self, first: FloatArray, second: FloatArray) -> None:
        self._first, self._second = first, second

    def total(self, times: Sequence[float]) -> FloatArray:
        """The sum of ``times`` each product, as a symmetric quadratic form."""
        form = (self._first * np.asarray(times, dtype=np.float64)[:, None]).T @ self._second
        total: FloatArray = (form + form.T) / 2
        return total


def undominated(forms: FloatArray) -> FloatArray:
    """The linear forms that can be the largest for some non-negative widths: none is below another everywhere."""
    rows = forms[np.argsort(-forms.sum(axis=1), kind="stable")]
    kept = []
    while len(rows):
        kept.append(rows[0])
        rows = rows[(rows > rows[0]).any(axis=1)]
    return np.array(kept).reshape(-1, forms.shape[1])
