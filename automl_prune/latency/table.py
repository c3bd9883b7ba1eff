"""Milliseconds of one kind of layer at every width, interpolated between widths that were timed.

Times do not simply grow with the width: ONNX Runtime takes much longer for 18 input channels than for 20, as its fast
convolutions want a multiple of 4, and best use 16 at a time. Widths are therefore divided into classes by what divides
them, 16, 4 or neither; a width is interpolated between timed widths of its own class, and only within a class are times
made monotone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Signature

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

STEPS = (16, 4, 1)
"""Classes of widths: the first of these that divides one."""
PER_CLASS = 4
"""Widths of each class that are timed at most, the least and the most among them."""


def class_of(widths: IntArray) -> IntArray:
    """Index into ``STEPS`` of each width, of the same shape."""
    return np.select([widths % step == 0 for step in STEPS], range(len(STEPS)))


def grid(widths: IntArray, per_class: int = PER_CLASS) -> IntArray:
    """Which of the widths to time, ascending: some of each class, evenly from its least to its most."""
    chosen: set[int] = set()
    classes = class_of(widths)
    for index in range(len(STEPS)):
        members = widths[classes == index]
        places = np.linspace(0, len(members) - 1, min(per_class, len(members)))
        chosen.update(members[np.rint(places).astype(np.int64)].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


@dataclass(frozen=True)
class LatencyTable:
    """Times of the blocks of one signature.

    Attributes:
        signature: Of the blocks.
        inputs, outputs: Widths that were timed, ascending; equal where the two are tied.
        ms: ``[inputs, outputs]``, tied ones ``[1, outputs]``.
    """

    signature: Signature
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: FloatArray = field(repr=False)

    def __call__(self, inputs: IntArray, outputs: IntArray) -> FloatArray:
        """Milliseconds of blocks, of the arguments' shape."""
        top = np.array(self._dense.shape) - 1
        rows = 0 if self.signature.tied else np.minimum(inputs, top[0])
        found: FloatArray = self._dense[rows, np.minimum(outputs, top[1])]
        return found

    @cached_property
    def _dense(self) -> FloatArray:
        """Milliseconds at every pair of widths up to the widest timed, ``[inputs + 1, outputs + 1]``."""
        rows = np.ones((1, 1)) if self.signature.tied else _weights(np.array(self.inputs))
        return rows @ self._repaired @ _weights(np.array(self.outputs)).T

    @cached_property
    def _repaired(self) -> FloatArray:
        """The times, monotone along each axis within each pair of classes."""
        ms = self.ms.copy()
        rows = np.zeros(1, np.int64) if self.signature.tied else class_of(np.array(self.inputs))
        columns = class_of(np.array(self.outputs))
        for r in np.unique(rows):
            for c in np.unique(columns):
                part = np.ix_(rows == r, columns == c)
                ms[part] = monotone(ms[part])
        return ms

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"signature": vars(self.signature), "inputs": self.inputs, "outputs": self.outputs, "ms": self.ms.tolist()}

    @classmethod
    def of(cls, signature: Signature, times: Mapping[tuple[int, int], float]) -> "LatencyTable":
        """The table of times by (inputs, outputs), which must be a whole grid; raises MeasurementError."""
        outputs = tuple(sorted({o for _, o in times}))
        inputs = outputs if signature.tied else tuple(sorted({i for i, _ in times}))
        pairs = [[(o, o) for o in outputs]] if signature.tied else [[(i, o) for o in outputs] for i in inputs]
        try:
            rows = [[times[pair] for pair in row] for row in pairs]
        except KeyError as error:
            raise MeasurementError(f"The block of widths {error} was not timed.") from None
        return cls(signature, inputs, outputs, np.array(rows, dtype=np.float64))


def _weights(points: IntArray) -> FloatArray:
    """How each width up to the last point is made of the points of its class, ``[last + 1, points]``."""
    widths = np.arange(points[-1] + 1)
    weights = np.zeros((len(widths), len(points)))
    classes, own = class_of(widths), class_of(points)
    for index in range(len(STEPS)):
        members = np.flatnonzero(own == index)
        asked = widths[classes == index]
        if not len(members):  # no such width can be asked for, but nothing may come of it by accident
            members = np.arange(len(points))
        for column, place in enumerate(members):
            weights[asked, place] = np.interp(asked, points[members], np.eye(len(members))[column])
    return weights


def monotone(ms: FloatArray) -> FloatArray:
    """The nearest of simple surfaces that grow along both axes: halfway between the running maxima and minima."""
    above, below = ms, ms
    for axis in (0, 1):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return (above + below) / 2
