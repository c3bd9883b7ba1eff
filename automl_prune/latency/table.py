"""Milliseconds of one kind of layer at every width, interpolated between widths that were timed.

A width is interpolated between timed widths of its own class, as the runtime's layout divides them, and only within a class
are times made monotone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Signature
from automl_prune.latency.layouts import DIVISOR, PLAIN, Layout, Scale

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Times of blocks whose inputs are of one class.

    Attributes:
        scale: Of the outputs.
        inputs, outputs: Widths that were timed, ascending; one row without inputs where the two are tied.
        ms: ``[inputs, outputs]``.
    """

    scale: Scale
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: FloatArray = field(repr=False)

    @cached_property
    def repaired(self) -> FloatArray:
        """The times, monotone along both axes within each class of outputs."""
        ms, columns = self.ms.copy(), self.scale.classes(np.array(self.outputs))
        for column in np.unique(columns):
            ms[:, columns == column] = monotone(ms[:, columns == column])
        return ms


@dataclass(frozen=True)
class LatencyTable:
    """Times of the blocks of one signature.

    Attributes:
        signature: Of the blocks.
        layout: How its times depend on its widths; of no concern where inputs and outputs are tied.
        parts: By class of inputs.
    """

    signature: Signature
    layout: Layout
    parts: tuple[Part, ...]

    def __call__(self, inputs: IntArray, outputs: IntArray) -> FloatArray:
        """Milliseconds of blocks, of the arguments' shape."""
        top = np.array(self._dense.shape) - 1
        rows = 0 if self.signature.tied else np.minimum(inputs, top[0])
        found: FloatArray = self._dense[rows, np.minimum(outputs, top[1])]
        return found

    @cached_property
    def _dense(self) -> FloatArray:
        """Milliseconds at every pair of widths up to the widest timed, ``[inputs + 1, outputs + 1]``."""
        outputs = np.arange(max(width for part in self.parts for width in part.outputs) + 1)
        if self.signature.tied:
            (part,) = self.parts
            return part.repaired @ part.scale.weights(outputs, np.array(part.outputs)).T
        inputs = np.arange(max(width for part in self.parts for width in part.inputs) + 1)
        dense = np.zeros((len(inputs), len(outputs)))
        classes, scale = self.layout.inputs.classes(inputs), self.layout.inputs
        own = [int(scale.classes(np.array(part.inputs[:1]))[0]) for part in self.parts]
        for index in np.unique(classes):  # a class that was not timed cannot be asked for; it gets what is first
            part = self.parts[own.index(index) if index in own else 0]
            rows = inputs[classes == index]
            columns = part.scale.weights(outputs, np.array(part.outputs))
            dense[rows] = scale.weights(rows, np.array(part.inputs)) @ part.repaired @ columns.T
        return dense

    @classmethod
    def of(cls, signature: Signature, times: Mapping[tuple[int, int], float], layout: Layout = PLAIN) -> "LatencyTable":
        """The table of times by (inputs, outputs), a whole grid for each class of inputs; raises MeasurementError."""
        if signature.tied:
            widths = tuple(sorted(o for _, o in times))
            return cls(signature, layout, (Part(DIVISOR, (), widths, np.array([[times[w, w] for w in widths]])),))
        parts, inputs = [], np.array(sorted({i for i, _ in times}), dtype=np.int64)
        classes = layout.inputs.classes(inputs)
        for index in np.unique(classes):
            rows = tuple(inputs[classes == index].tolist())
            columns = tuple(sorted({o for i, o in times if i in rows}))
            missing = [(i, o) for i in rows for o in columns if (i, o) not in times]
            if missing:
                raise MeasurementError(f"The block of widths {missing[0]} was not timed.")
            ms = np.array([[times[i, o] for o in columns] for i in rows], dtype=np.float64)
            parts.append(Part(layout.outputs[index], rows, columns, ms))
        return cls(signature, layout, tuple(parts))


def monotone(ms: FloatArray) -> FloatArray:
    """The nearest of simple surfaces that grow along both axes: halfway between the running maxima and minima."""
    above, below = ms, ms
    for axis in (0, 1):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return (above + below) / 2
