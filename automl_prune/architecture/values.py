"""Which channel every entry of a tensor belongs to, kept as small as the pattern is.

An activation of shape ``[1, 64, 56, 56]`` whose entries differ by channel only is a *core* ``[1, 64, 1, 1]`` of ids: the
core has size one wherever the ids do not vary. Moving data (permute, reshape, cat …) is done on the core itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What the entries of one tensor are.

    Attributes:
        core: Broadcasts to ``shape``; every dimension is 1 or full. Ids of channels, negative where nothing can be cut.
        shape: Of the tensor.
        weight: Name of a parameter; then ``core`` holds positions in it instead of ids.
    """

    core: IntArray
    shape: Shape
    weight: str | None = None

    @classmethod
    def along(cls, ids: IntArray, shape: Sequence[int], dim: int) -> "Value":
        """Entries that vary along ``dim`` only."""
        view = [1] * len(shape)
        view[dim] = len(ids)
        return cls(np.ascontiguousarray(ids).reshape(view), tuple(shape))

    @classmethod
    def constant(cls, channel: int, shape: Sequence[int]) -> "Value":
        """The same id everywhere."""
        return cls(np.full((1,) * len(shape), channel, dtype=np.int64), tuple(shape))

    @property
    def varying(self) -> tuple[int, ...]:
        """Dimensions along which entries differ."""
        return tuple(d for d, size in enumerate(self.core.shape) if size > 1)

    def varies(self, dim: int) -> bool:
        """Whether entries differ along ``dim``."""
        return bool(self.core.shape[dim] > 1)

    def vector(self, dim: int) -> IntArray | None:
        """Entries along ``dim``, ``[shape[dim]]``; None when they also differ along another dimension."""
        dim %= len(self.shape)
        if self.varying not in ((), (dim,)):
            return None
        return np.broadcast_to(self.core.reshape(-1), (self.shape[dim],)).copy()

    def same(self, other: "Value") -> bool:
        """Whether two values are the same view of the same entries."""
        mine, its = self.core.__array_interface__, other.core.__array_interface__
        return self.shape == other.shape and all(mine[key] == its[key] for key in ("data", "shape", "strides"))

    def full(self, dims: Sequence[int]) -> IntArray:
        """The core with ``dims`` expanded to their full size."""
        shape = tuple(self.shape[d] if d in dims else size for d, size in enumerate(self.core.shape))
        return np.broadcast_to(self.core, shape)

    def moved(self, core: IntArray, shape: Sequence[int]) -> "Value":
        """The same entries elsewhere; the core is made small again."""
        return Value(compact(core), tuple(shape), self.weight)

    def expanded(self, shape: Sequence[int]) -> "Value":
        """Broadcast to ``shape``."""
        if tuple(shape) == self.shape:
            return self
        core = self.core.reshape((1,) * (len(shape) - self.core.ndim) + self.core.shape)
        return Value(core, tuple(shape), self.weight)


def compact(core: IntArray) -> IntArray:
    """A core with size one wherever its entries do not vary."""
    for dim, size in enumerate(core.shape):
        head = core[(slice(None),) * dim + (slice(0, 1),)]
        if size > 1 and (core == head).all():
            core = head
    return core


Split = Callable[[IntArray, int], IntArray]
"""From entries ``[rest, *sizes]`` and the place of the first size in the new shape to entries that vary along one."""


def reshaped(value: Value, shape: Sequence[int], split: Split) -> Value:
    """A value after a reshape.

    The dimensions are matched in blocks of equal size; where a block comes to vary along several dimensions, ``split`` says
    along which one it may.
    """
    if 0 in shape:
        return Value(value.core.reshape(-1)[:1].reshape((1,) * len(shape)), tuple(shape), value.weight)
    core = value.core
    out: list[int] = []
    dim = 0
    for start, stop, sizes in blocks(value.shape, shape):
        expanded = [value.shape[d] for d in range(start, stop)]
        width = stop - start
        if any(core.shape[dim + i] > 1 for i in range(width)):
            full = np.broadcast_to(core, (*core.shape[:dim], *expanded, *core.shape[dim + width :]))
            core = full.reshape((*core.shape[:dim], *sizes, *core.shape[dim + width :]))
            core = _split_block(core, dim, sizes, split)
        else:
            core = core.reshape((*core.shape[:dim], *([1] * len(sizes)), *core.shape[dim + width :]))
        dim += len(sizes)
        out += sizes
    return value.moved(core, out)


def _split_block(core: IntArray, dim: int, sizes: list[int], split: Split) -> IntArray:
    inner = list(range(dim, dim + len(sizes)))
    small = compact(core)
    if sum(small.shape[d] > 1 for d in inner) <= 1:
        return small
    rest = np.moveaxis(core, inner, list(range(-len(sizes), 0)))
    parted = split(rest.reshape(-1, *sizes), dim).reshape(rest.shape)
    return compact(np.moveaxis(parted, list(range(-len(sizes), 0)), inner))


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int, list[int]]]:
    """Runs of old dimensions ``[start, stop)`` with the new sizes that hold the same entries; ones join neighbours."""
    found: list[tuple[int, int, list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, sizes = i, []
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
            sizes.append(new[j - 1])
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
                sizes.append(new[j - 1])
        found.append((start, i, sizes))
    return found
