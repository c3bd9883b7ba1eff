"""What a forward pass keeps in memory: which tensors are made, and from which step to which they are needed.

A tensor lives from the operation that makes it to the last one that reads it or a view of it: the sample from the first
step, results to the last. Views (an expanded tensor is one) and results written in place share their tensor. What the
program makes by itself, constants and masks, counts like any other result; parameters and buffers do not count. Operations
are those that the program calls: what a fused one keeps inside, as attention may keep its scores, does not count.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from automl_prune.architecture.channel_ids import Collected
from automl_prune.architecture.model import Activation, Axis, compress
from automl_prune.architecture.values import Value


@dataclass
class _Made:
    first: int
    last: int
    elements: int
    value: Value


@dataclass
class Lifetimes:
    """The tensors of one run, in order.

    Attributes:
        batch: Samples in the run; sizes are of one.
    """

    batch: int
    now: int = 0
    _made: dict[int, _Made] = field(default_factory=dict)
    _known: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these (parameters and buffers)."""
        for tensor in _flat(tensors):
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage

    def step(self, read: Iterable[Any], made: Iterable[Any], value: Callable[[Tensor], Value]) -> None:
        """One operation."""
        self.now += 1
        for tensor in _flat(read):
            self._use(tensor)
        for tensor in _flat(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known[storage._cdata] = storage  # held, so that no later storage takes its place
                self._made[storage._cdata] = _Made(self.now, self.now, tensor.numel(), value(tensor))
            self._use(tensor)

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """These are needed after the last step."""
        for tensor in _flat(tensors):
            self._use(tensor)

    def activations(self, found: Collected) -> tuple[Activation, ...]:
        """Sizes and lives, in order of making."""
        return tuple(self._activation(made, found) for made in self._made.values())

    def _use(self, tensor: Tensor) -> None:
        made = self._made.get(tensor.untyped_storage()._cdata)
        if made is not None:
            made.last = self.now

    def _activation(self, made: _Made, found: Collected) -> Activation:
        if made.value.weight:
            return _of_weight(made, found)
        core = made.value.core.reshape(-1)
        positions = made.elements // (self.batch * max(1, core.size))
        cut = found.unit[core + found.shift] >= 0
        fixed = positions * int((~cut).sum()) if cut.any() else made.elements // self.batch
        return Activation(made.first, made.last, positions, found.runs(core[cut]), fixed)


def _of_weight(made: _Made, found: Collected) -> Activation:
    """A tensor made of one parameter alone, however many samples there are: its entries go where the parameter's go."""
    tensor = next((t for t in found.tensors if t.name == made.value.weight), None)
    axes = [axis for axis in tensor.axes if _free(axis, found)] if tensor else []
    if tensor is None or len(axes) != 1:  # along two axes at once, a size would not be linear in the widths
        return Activation(made.first, made.last, 0, (), made.elements)
    place = made.value.core.reshape(-1) // math.prod(tensor.shape[axes[0].dim + 1 :]) % tensor.shape[axes[0].dim]
    units, times = np.unique(axes[0].ids()[place], return_counts=True)
    return Activation(made.first, made.last, made.elements // place.size, compress(np.repeat(units, times)))


def _free(axis: Axis, found: Collected) -> bool:
    ids = axis.ids()
    return any(g.frozen is None and ((ids >= g.start) & (ids < g.start + g.units)).any() for g in found.groups)


def _flat(things: Iterable[Any]) -> Iterable[Tensor]:
    for thing in things:
        if isinstance(thing, Tensor) and thing.layout is torch.strided:
            yield thing
        elif isinstance(thing, list | tuple):
            yield from _flat(thing)
