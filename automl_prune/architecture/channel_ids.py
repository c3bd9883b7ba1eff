"""Channel ids: which entries of which axes are the same channel. Plain bookkeeping, no network in sight.

Ids are minted in blocks, united in pairs and frozen with a reason; only at the end are they collected into groups.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from automl_prune.architecture.model import Axis, ChannelGroup, Tensor, compress

IntArray = npt.NDArray[np.int64]

ZERO = 0
"""The id of channels that are constantly zero (padding); never cut, never united."""


@dataclass
class AxisIds:
    """Raw ids along one axis of one tensor, as tracing met them."""

    tensor: str
    dim: int
    role: str
    layer: str
    ids: IntArray


@dataclass
class ChannelIds:
    """The ledger of a tracing run."""

    count: int = 1
    edges: list[IntArray] = field(default_factory=list)
    axes: dict[tuple[str, int], AxisIds] = field(default_factory=dict)
    indexed: dict[str, IntArray] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def mint(self, size: int) -> IntArray:
        """New ids, ``[size]``."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def unite(self, left: IntArray, right: IntArray) -> None:
        """Declare ids pairwise the same channel; pairs with ZERO and pairs of equals say nothing."""
        pairs = np.stack([left.ravel(), right.ravel()])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs[0] != ZERO) & (pairs[1] != ZERO)]
        if pairs.size:
            self.edges.append(np.unique(pairs, axis=1))

    def freeze(self, ids: IntArray, reason: str) -> None:
        """Forbid cutting these ids; the first reason given to a channel stays."""
        for i in np.unique(ids[ids != ZERO]):
            self.reasons.setdefault(int(i), reason)

    def attach(self, tensor: str, dim: int, role: str, layer: str, ids: IntArray) -> IntArray:
        """Say which ids lie along an axis; a tensor used twice has its uses united. Returns the axis's ids."""
        known = self.axes.get((tensor, dim))
        if known is None:
            self.axes[tensor, dim] = AxisIds(tensor, dim, role, layer, ids)
            return ids
        self.unite(known.ids, ids)
        if ZERO in ids or ZERO in known.ids:
            self.freeze(np.concatenate([known.ids, ids]), f"{tensor} is used with padded and real channels")
        return known.ids

    def collect(self, shapes: dict[str, tuple[int, ...]], learned: set[str]) -> tuple[list[ChannelGroup], list[Tensor]]:
        """Groups and tensors: classes of united ids, gathered by where they occur, renumbered group by group."""
        label = self._labels()
        signature, first_layer, members = self._occurrences(label)
        reasons: dict[int, str] = {}
        if ZERO in signature or any(ZERO in ids for ids in self.indexed.values()):
            reasons[ZERO] = "always zero (padding)"
        for i, why in sorted(self.reasons.items()):
            reasons.setdefault(int(label[i]), why)
        buckets: dict[tuple[object, str | None], list[int]] = {}
        for unit in np.unique(label):
            if int(unit) in signature or int(unit) in reasons:
                buckets.setdefault((signature.get(int(unit), ()), reasons.get(int(unit))), []).append(int(unit))
        bases = [_name(first_layer.get(units[0]), units, reason) for (_, reason), units in buckets.items()]
        renumber = np.full(self.count, -1, dtype=np.int64)
        groups: list[ChannelGroup] = []
        names: dict[str, int] = {}
        start = 0
        for (key, reason), units in buckets.items():
            renumber[units] = np.arange(start, start + len(units))
            name = _name(first_layer.get(units[0]), units, reason)
            names[name] = names.get(name, 0) + 1
            groups.append(
                ChannelGroup(
                    name=name if bases.count(name) == 1 else f"{name}#{names[name]}",
                    width=len(units) * _root_multiplicity(key),
                    units=len(units),
                    start=start,
                    members=tuple(members.get(units[0], ())),
                    frozen=reason,
                )
            )
            start += len(units)
        return groups, self._tensors(renumber[label], shapes, learned)

    def _labels(self) -> IntArray:
        """Smallest id of each id's class, ``[count]``."""
        if not self.edges:
            return np.arange(self.count)
        rows, columns = np.concatenate(self.edges, axis=1)
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(self.count, self.count))
        component = connected_components(graph, directed=False)[1]
        smallest = np.full(component.max() + 1, self.count)
        np.minimum.at(smallest, component, np.arange(self.count))
        labels: IntArray = smallest[component]
        return labels

    def _occurrences(
        self, label: IntArray
    ) -> tuple[dict[int, tuple[tuple[int, int], ...]], dict[int, str], dict[int, list[str]]]:
        """Per class: (axis, times) pairs, the first layer that produces it, and all layers it occurs in."""
        signature: dict[int, list[tuple[int, int]]] = {}
        first: dict[int, str] = {}
        members: dict[int, dict[str, None]] = {}
        for index, axis in enumerate(self.axes.values()):
            units, counts = np.unique(label[axis.ids], return_counts=True)
            for unit, times in zip(units.tolist(), counts.tolist(), strict=True):
                signature.setdefault(unit, []).append((index, times))
                members.setdefault(unit, {})[axis.layer] = None
                if axis.role != "in":
                    first.setdefault(unit, axis.layer)
        return {u: tuple(s) for u, s in signature.items()}, first, {u: list(m) for u, m in members.items()}

    def _tensors(self, unit: IntArray, shapes: dict[str, tuple[int, ...]], learned: set[str]) -> list[Tensor]:
        by_tensor: dict[str, list[Axis]] = {}
        for axis in self.axes.values():
            by_tensor.setdefault(axis.tensor, []).append(Axis(axis.dim, axis.role, compress(unit[axis.ids])))
        return [
            Tensor(
                name=name,
                shape=shapes[name],
                axes=tuple(sorted(axes, key=lambda a: a.dim)),
                learned=name in learned,
                indexes=compress(unit[self.indexed[name]]) if name in self.indexed else None,
            )
            for name, axes in by_tensor.items()
        ]


def _name(layer: str | None, units: list[int], reason: str | None) -> str:
    """The first layer that puts a group out; what no layer puts out is called by what it is."""
    return layer or ("padding" if units[0] == ZERO else "input" if reason == "network input" else "fixed")


def _root_multiplicity(signature: object) -> int:
    """How many channels of its first axis one unit stands for."""
    return signature[0][1] if isinstance(signature, tuple) and signature else 1
