"""Which widths of a layer take their time alike: classes of widths, and the place of each within its class.

Times do not simply grow with the width. Vectorised kernels like multiples of 16, then of 4. ONNX Runtime goes further: its
convolutions compute in blocks of 16 channels where the inputs are a multiple of 4, or fewer than 16, which are taken as they
are. What is missing to a whole block is filled up: 20 inputs take as long as 32. Elsewhere another kernel computes in the
plain layout (found by looking at its optimised graphs and timing them). A processor that computes in blocks of another size
is predicted worse, which the check of every model shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STEPS = (16, 4, 1)
"""Classes by divisor: the first of these that divides a width."""
BLOCK = 16
"""Channels that are computed at once in the blocked layout."""
ALIGNED = 4
"""What the inputs of a blocked convolution are a multiple of, unless they are fewer than a block."""


@dataclass(frozen=True)
class Scale:
    """Classes of the widths along one axis, and where each stands within its class; both of any shape, and give the same.

    Attributes:
        classes: Index of the class of each width, from 0.
        places: Widths of one class and one place take the same time; between places it is interpolated.
        per_class: Places of each class that are timed at most, the least and the most among them.
    """

    classes: Callable[[IntArray], IntArray]
    places: Callable[[IntArray], IntArray]
    per_class: int = 4

    def grid(self, widths: IntArray) -> list[IntArray]:
        """Which of the widths to time, ascending, by class: of each chosen place the greatest width."""
        chosen, classes = [], self.classes(widths)
        for index in range(int(classes.max(initial=-1)) + 1):
            members = widths[classes == index]
            places, at = np.unique(self.places(members), return_inverse=True)
            picked = np.rint(np.linspace(0, len(places) - 1, min(self.per_class, len(places)))).astype(np.int64)
            chosen.append(np.array([members[at == place].max() for place in np.unique(picked)], dtype=np.int64))
        return chosen

    def weights(self, widths: IntArray, points: IntArray) -> npt.NDArray[np.float64]:
        """How each width is made of the points of its class, ``[widths, points]``."""
        weights = np.zeros((len(widths), len(points)))
        classes, own = self.classes(widths), self.classes(points)
        for index in np.unique(classes):
            members = np.flatnonzero(own == index)
            asked = classes == index
            if not len(members):  # no such width can be asked for, but nothing may come of it by accident
                members = np.arange(len(points))
            order = members[np.argsort(self.places(points[members]), kind="stable")]
            known, wanted = self.places(points[order]), self.places(widths[asked])
            for column, point in enumerate(order):
                weights[asked, point] = np.interp(wanted, known, np.eye(len(order))[column])
        return weights


def by_divisor(widths: IntArray) -> IntArray:
    """Index into ``STEPS`` of each width."""
    return np.select([widths % step == 0 for step in STEPS], range(len(STEPS)))


def is_blocked(inputs: IntArray) -> BoolArray:
    """Whether a convolution that takes in so many channels computes in blocks of them."""
    blocked: BoolArray = (inputs < BLOCK) | (inputs % ALIGNED == 0)
    return blocked


def filled(widths: IntArray) -> IntArray:
    """Channels of the whole blocks that hold so many."""
    return -(-widths // BLOCK) * BLOCK


def _by_layout(inputs: IntArray) -> IntArray:
    """0: fewer than a block, taken as they are; 1: blocks; 2: plain."""
    return np.where(inputs < BLOCK, 0, np.where(is_blocked(inputs), 1, 2))


DIVISOR = Scale(by_divisor, np.asarray)
FILLED = Scale(np.zeros_like, filled, per_class=5)
LAYOUT = Scale(_by_layout, lambda inputs: np.where(_by_layout(inputs) == 1, filled(inputs), inputs), per_class=5)


@dataclass(frozen=True)
class Layout:
    """How a layer's time depends on its widths: a scale of its inputs, and for each class of these one of its outputs."""

    inputs: Scale
    outputs: tuple[Scale, ...]

    def grid(self, inputs: IntArray, outputs: IntArray) -> list[tuple[int, int]]:
        """Pairs of widths to time, of widths that can occur, ascending each: a whole grid for each class of inputs."""
        pairs: list[tuple[int, int]] = []
        for scale, rows in zip(self.outputs, self.inputs.grid(inputs), strict=False):
            columns = np.concatenate(scale.grid(outputs))
            pairs += [(i, o) for i in rows.tolist() for o in sorted(columns.tolist())]
        return pairs


PLAIN = Layout(DIVISOR, (DIVISOR, DIVISOR, DIVISOR))
BLOCKED = Layout(LAYOUT, (FILLED, FILLED, DIVISOR))
