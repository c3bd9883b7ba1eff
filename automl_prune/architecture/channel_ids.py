"""Channel ids: which entries of which axes are the same channel. Plain bookkeeping, no network in sight.

Ids are minted in blocks, united in pairs and frozen with a reason; only at the end are they collected into groups. Negative
ids are *solid*: they stand for entries that can never be cut (the network's input, padding, tensors of a fixed size).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from automl_prune.architecture.model import Axis, ChannelGroup, Run, Tensor, compress

IntArray = npt.NDArray[np.int64]

ZERO, FIXED, INPUT = -1, -2, -3
"""Solid ids that every ledger knows: padding with zeros, entries of a tensor of fixed size, the network's input."""

_SOLID = {
    ZERO: ("padding", "always zero (padding)"),
    FIXED: ("fixed", "of a fixed size"),
    INPUT: ("input", "network input"),
}


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
    """The ledger of a tracing run.

    Attributes:
        stopped: A reason that freezes whatever is minted from now on.
    """

    count: int = 0
    edges: list[IntArray] = field(default_factory=list)
    axes: dict[tuple[str, int], AxisIds] = field(default_factory=dict)
    indexed: dict[str, IntArray] = field(default_factory=dict)
    frozen: list[tuple[IntArray, str]] = field(default_factory=list)
    solids: dict[int, tuple[str, str]] = field(default_factory=lambda: dict(_SOLID))
    stopped: str | None = None

    def mint(self, size: int) -> IntArray:
        """New ids, ``[size]``."""
        self.count += size
        ids = np.arange(self.count - size, self.count, dtype=np.int64)
        if self.stopped:
            self.freeze(ids, self.stopped)
        return ids

    def solid(self, name: str, reason: str) -> int:
        """A new solid id; what it stands for is called ``name`` and is not cut for this reason."""
        self.solids[-len(self.solids) - 1] = (name, reason)
        return -len(self.solids)

    def unite(self, left: IntArray, right: IntArray, by: str) -> None:
        """Declare ids pairwise the same channel, with broadcasting; ids that meet solid ones are frozen by ``by``."""
        left, right = (ids.ravel() for ids in np.broadcast_arrays(left, right))
        for ids, others in ((left, right), (right, left)):
            for solid in np.unique(others[(others < 0) & (ids >= 0)]):
                self.freeze(ids[others == solid], f"meets {self.solids[int(solid)][0]} entries in {by}")
        pairs = np.stack([left, right])[:, (left != right) & (left >= 0) & (right >= 0)]
        if pairs.size:
            self.edges.append(pairs)

    def freeze(self, ids: IntArray, reason: str) -> None:
        """Forbid cutting these ids; the first reason given to a channel stays."""
        ids = ids[ids >= 0].ravel()
        if ids.size:
            self.frozen.append((ids, reason))

    def attach(self, tensor: str, dim: int, role: str, layer: str, ids: IntArray) -> IntArray:
        """Say which ids lie along an axis; a tensor used twice has its uses united. Returns the axis's ids."""
        known = self.axes.get((tensor, dim))
        if known is None:
            self.axes[tensor, dim] = AxisIds(tensor, dim, role, layer, ids)
            return ids
        self.unite(known.ids, ids, f"the second use of {tensor}")
        return known.ids

    def collect(self, shapes: Mapping[str, tuple[int, ...]], learned: set[str]) -> "Collected":
        """Groups and tensors: classes of united ids, gathered by where they occur, renumbered group by group."""
        shift = len(self.solids)
        label = self._labels(shift)
        axes = [a for a in self.axes.values() if not (a.ids == FIXED).all()]
        occurrences = Occurrences.of([label[a.ids + shift] for a in axes])
        wanted = np.unique(np.concatenate([occurrences.unit, *(label[ids + shift] for ids in self.indexed.values())]))
        reasons, reason = self._reasons(label, shift)
        groups = []
        renumber = np.full(len(label), -1, dtype=np.int64)
        start = 0
        for units in _alike(wanted, occurrences.signature(len(label))[wanted], reason[wanted], solid=wanted < shift):
            here = occurrences.at(units[0])
            solid = self.solids.get(int(units[0]) - shift)
            groups.append(_group(units, [(axes[i], times) for i, times in here], reasons[reason[units[0]]], start, solid))
            renumber[units] = np.arange(start, start + len(units))
            start += len(units)
        found = Collected(tuple(_distinctly_named(groups)), (), renumber[label], shift)
        return dataclasses.replace(found, tensors=_tensors(axes, self.indexed, found, shapes, learned))

    def _labels(self, shift: int) -> IntArray:
        """Smallest id of each id's class, ``[solids + count]``; ids are shifted to start at zero."""
        size = self.count + shift
        if not self.edges:
            return np.arange(size)
        rows, columns = np.concatenate(self.edges, axis=1) + shift
        graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
        component = connected_components(graph, directed=False)[1]
        smallest = np.full(component.max() + 1, size)
        np.minimum.at(smallest, component, np.arange(size))
        labels: IntArray = smallest[component]
        return labels

    def _reasons(self, label: IntArray, shift: int) -> tuple[list[str | None], IntArray]:
        """Why classes cannot be cut: the reasons, and the place of each label's reason among them."""
        said = [*self.solids.values(), *self.frozen]
        places = np.full(len(label), len(said), dtype=np.int64)
        for place in range(len(said) - 1, -1, -1):  # backwards, so that the first reason stays
            ids = np.array([-place - 1]) if place < shift else self.frozen[place - shift][0]
            places[label[ids + shift]] = place
        return [*(reason for _, reason in said), None], places


@dataclass(frozen=True)
class Collected:
    """What a ledger amounts to.

    Attributes:
        groups: Channel groups in order of execution.
        tensors: Tensors with channel axes.
        unit: Unit id by shifted raw id; -1 for ids that occur on no tensor.
        shift: What to add to a raw id.
    """

    groups: tuple[ChannelGroup, ...]
    tensors: tuple[Tensor, ...]
    unit: IntArray
    shift: int

    def runs(self, ids: IntArray) -> tuple[Run, ...]:
        """Unit ids of raw ids, compressed."""
        return compress(self.unit[ids + self.shift])


@dataclass(frozen=True)
class Occurrences:
    """Where classes occur: (unit, axis, times) triples, sorted by unit."""

    unit: IntArray
    axis: IntArray
    times: IntArray

    @classmethod
    def of(cls, axes: list[IntArray]) -> "Occurrences":
        """The occurrences of labels along axes."""
        counted = [np.unique(ids, return_counts=True) for ids in axes]
        unit = np.concatenate([np.empty(0, np.int64), *(u for u, _ in counted)])
        axis = np.repeat(np.arange(len(axes)), [len(u) for u, _ in counted])
        times = np.concatenate([np.empty(0, np.int64), *(t for _, t in counted)])
        order = np.argsort(unit, kind="stable")
        return cls(unit[order], axis[order], times[order])

    def at(self, unit: int) -> list[tuple[int, int]]:
        """The axes that a unit lies on, and how often."""
        here = slice(*np.searchsorted(self.unit, [unit, unit + 1]))
        return list(zip(self.axis[here].tolist(), self.times[here].tolist(), strict=True))

    def signature(self, size: int) -> IntArray:
        """A number for the set of (axis, times) of each unit below ``size``; 0 for units that occur nowhere."""
        numbers = np.zeros(size, dtype=np.int64)
        if not len(self.unit):
            return numbers
        starts = np.flatnonzero(np.diff(self.unit, prepend=-1))
        lengths = np.diff(np.append(starts, len(self.unit)))
        before = np.arange(len(self.unit)) - np.repeat(lengths, lengths)
        same = (before >= 0) & (self.axis == self.axis[before]) & (self.times == self.times[before])
        alike = np.logical_and.reduceat(same, starts) & (lengths == np.concatenate([[0], lengths[:-1]]))
        # Units like the one before them share its number; only the first of a row of equals is looked up.
        known: dict[bytes, int] = {}
        firsts = np.flatnonzero(~alike)
        looked_up = [
            known.setdefault(np.stack([self.axis[a : a + n], self.times[a : a + n]]).tobytes(), len(known) + 1)
            for a, n in zip(starts[firsts].tolist(), lengths[firsts].tolist(), strict=True)
        ]
        rows = np.diff(np.append(firsts, len(starts)))
        numbers[self.unit[starts]] = np.repeat(looked_up, rows)
        return numbers


def _alike(units: IntArray, signature: IntArray, reason: IntArray, *, solid: npt.NDArray[np.bool_]) -> list[IntArray]:
    """Units that occur in the same places for the same reason, in order of their first; solid ones stay alone."""
    keys = np.where(solid, -units - 1, signature) * (reason.max(initial=0) + 1) + reason
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(units[order], np.cumsum(np.bincount(inverse))[:-1]) if len(units) else []
    return [parts[i] for i in np.argsort(first)]


def _group(
    units: IntArray, here: list[tuple[AxisIds, int]], reason: str | None, start: int, solid: tuple[str, str] | None
) -> ChannelGroup:
    times = here[0][1] if here else 1
    producer = next((a.layer for a, _ in here if a.role != "in"), None)
    if reason is None and not any(a.role in ("out", "map") for a, _ in here):
        reason = "put out by no layer"
    if reason is None and len(units) == 1:
        reason = "a single channel" if times == 1 else f"its {times} channels can only be cut all at once"
    members = tuple(dict.fromkeys(a.layer for a, _ in here))
    return ChannelGroup(solid[0] if solid else producer or "fixed", len(units) * times, len(units), start, members, reason)


def _distinctly_named(groups: list[ChannelGroup]) -> Iterable[ChannelGroup]:
    """Groups of one name are numbered: ``conv#1``, ``conv#2``."""
    times = Counter(g.name for g in groups)
    seen: Counter[str] = Counter()
    for g in groups:
        seen[g.name] += 1
        yield g if times[g.name] == 1 else dataclasses.replace(g, name=f"{g.name}#{seen[g.name]}")


def _tensors(
    axes: list[AxisIds],
    indexed: Mapping[str, IntArray],
    found: "Collected",
    shapes: Mapping[str, tuple[int, ...]],
    learned: set[str],
) -> tuple[Tensor, ...]:
    by_tensor: dict[str, list[Axis]] = {}
    runs: dict[int, tuple[Run, ...]] = {}  # the axes of one layer share their ids
    for axis in axes:
        if id(axis.ids) not in runs:
            runs[id(axis.ids)] = found.runs(axis.ids)
        by_tensor.setdefault(axis.tensor, []).append(Axis(axis.dim, axis.role, runs[id(axis.ids)]))
    return tuple(
        Tensor(
            name=name,
            shape=shapes[name],
            axes=tuple(sorted(here, key=lambda a: a.dim)),
            learned=name in learned,
            indexes=found.runs(indexed[name]) if name in indexed else None,
        )
        for name, here in by_tensor.items()
    )
