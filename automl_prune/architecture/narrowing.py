"""The description of a network that was cut: a cut network is a network again, which can be cut further.

Cutting a network, and then the small one by its own description, comes to the same as cutting once:

    small = materialise(model, architecture, kept)
    materialise(small, narrowed(architecture, kept), further) == materialise(model, architecture, composed(kept, further))
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from automl_prune.architecture.model import Architecture, BoolArray, Run, Tensor, Units, compress, expand


def narrowed(architecture: Architecture, kept: Mapping[str, Units]) -> Architecture:
    """The description of the network in which every group has only its kept units, numbered anew in the same order.

    Args:
        architecture: Of the network that was cut.
        kept: Kept unit positions by group name, ascending; unnamed groups stayed whole.

    Raises:
        UnknownNameError: No such group.
    """
    cut = _Cut(architecture.keep(kept))
    groups = []
    for group in architecture.groups:
        units = int(cut.stays[group.start : group.start + group.units].sum())
        groups.append(replace(group, width=units * group.divisor, units=units, start=int(cut.numbers[group.start])))
    return replace(
        architecture,
        groups=tuple(groups),
        tensors=tuple(map(cut.tensor, architecture.tensors)),
        products=tuple(replace(p, axes=tuple(map(cut.runs, p.axes))) for p in architecture.products),
        activations=tuple(replace(a, channels=cut.runs(a.channels)) for a in architecture.activations),
    )


def composed(kept: Mapping[str, Units], further: Mapping[str, Units]) -> dict[str, list[int]]:
    """Units of the uncut network that are left after it was cut to ``kept`` and the small network to ``further``."""
    both = {name: [int(u) for u in units] for name, units in {**further, **kept}.items()}
    both.update({name: [int(kept[name][i]) for i in units] for name, units in further.items() if name in kept})
    return both


class _Cut:
    """Which unit ids stay, ``[units]``, and how many do before each, ``[units + 1]``: its new number."""

    def __init__(self, stays: BoolArray) -> None:
        self.stays = stays
        self.numbers = np.concatenate([[0], np.cumsum(stays)])

    def runs(self, runs: Sequence[Run]) -> tuple[Run, ...]:
        ids = expand(runs)
        return compress(self.numbers[ids[self.stays[ids]]])

    def tensor(self, tensor: Tensor) -> Tensor:
        axes = tuple(replace(axis, runs=self.runs(axis.runs)) for axis in tensor.axes)
        shape = list(tensor.shape)
        for axis in axes:
            shape[axis.dim] = sum(run.count * run.repeat for run in axis.runs)
        indexes = None if tensor.indexes is None else self.runs(tensor.indexes)
        return replace(tensor, shape=tuple(shape), axes=axes, indexes=indexes)
