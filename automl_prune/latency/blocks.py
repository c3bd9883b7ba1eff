"""A layer as it is timed by itself: with random weights, and the normalisation and activation that runtimes fuse with it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from automl_prune.errors import MeasurementError

IntArray = npt.NDArray[np.int64]

KINDS = ("conv", "depthwise", "linear")
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class Signature:
    """What layers have in common whose times differ by their widths alone.

    Attributes:
        kind: One of ``KINDS``.
        kernel, stride, padding, size: Of a convolution, one number per spatial axis; ``size`` is that of what it takes in.
        rows: How often a linear layer is applied to one sample.
        norm: Whether batch normalisation and a rectifier follow.
        dilation: Of a convolution, one number per spatial axis.
        groups: Of a convolution that is not depthwise; its inputs are counted by group.
    """

    kind: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    rows: int = 1
    norm: bool = False
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def tied(self) -> bool:
        """Whether inputs and outputs are the same channels, so that there is one width."""
        return self.kind == "depthwise"

    @property
    def output_size(self) -> tuple[int, ...]:
        """Of what a convolution puts out, one number per spatial axis."""
        spread = self.dilation or (1,) * len(self.kernel)
        reach = [d * (k - 1) + 1 for d, k in zip(spread, self.kernel, strict=True)]
        axes = zip(self.size, reach, self.stride, self.padding, strict=True)
        return tuple((size + 2 * padding - span) // stride + 1 for size, span, stride, padding in axes)

    def weights(self, inputs: IntArray, outputs: IntArray) -> IntArray:
        """Entries of the weights of blocks of these widths."""
        entries: IntArray = math.prod(self.kernel) * outputs * (1 if self.tied else inputs)
        return entries

    def at(self, inputs: int, outputs: int) -> "Block":
        """The block of these widths."""
        return Block(**vars(self), inputs=inputs, outputs=outputs)


@dataclass(frozen=True)
class Block(Signature):
    """A layer of given widths."""

    inputs: int = 1
    outputs: int = 1

    @property
    def signature(self) -> Signature:
        """The same without its widths."""
        return Signature(**{name: getattr(self, name) for name in Signature.__dataclass_fields__})

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        if self.kind == "linear":
            return (self.inputs,) if self.rows == 1 else (self.rows, self.inputs)
        return (self.inputs * self.groups, *self.size)

    def build(self) -> nn.Module:
        """The block with seeded random weights, in evaluation mode; torch's own random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._build().eval()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Block":
        """Read :meth:`to_json`'s form from a stranger; raises MeasurementError."""
        if set(data) != set(cls.__dataclass_fields__) or data["kind"] not in KINDS:
            raise MeasurementError(f"A block has the fields {', '.join(cls.__dataclass_fields__)}; kind is one of {KINDS}.")
        read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        del read["kind"]
        numbers = [n for value in read.values() for n in (value if isinstance(value, tuple) else (value,))]
        if not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise MeasurementError("Sizes and widths of a block are whole numbers.")
        block = cls(data["kind"], **read)
        if not 1 <= len(block.size) <= 3 and block.kind != "linear":
            raise MeasurementError("A convolution has one to three spatial axes.")
        return block

    def _build(self) -> nn.Module:
        if self.kind == "linear":
            return nn.Linear(self.inputs, self.outputs)
        axes = len(self.size)
        make: Callable[..., nn.Module] = _CONVOLUTIONS[axes]
        shape = (self.inputs * self.groups, self.outputs, self.kernel, self.stride, self.padding, self.dilation or 1)
        convolution = make(*shape, groups=self.inputs if self.tied else self.groups, bias=not self.norm)
        if not self.norm:
            return convolution
        return nn.Sequential(convolution, _NORMS[axes](self.outputs), nn.ReLU(inplace=True))


REFERENCE = Block("conv", (3, 3), (1, 1), (1, 1), (16, 16), norm=True, inputs=32, outputs=32)
"""What single blocks are timed in turn with, on every device."""
