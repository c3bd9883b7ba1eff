"""A network as data: which tensors have which channels on which axis, and which channels live and die together.

Every *unit* of a network has an integer id: one channel, or several that can only be removed at once. A group owns a
contiguous range of ids, and an axis of a weight tensor is the sequence of ids along it. Cutting a network is therefore
one rule, whatever the layer: keep the entries whose id is kept.

    conv1.weight [16, 3, 3, 3]   axis 0: ids 3..18 (group "conv1")     axis 1: ids 0..2 (frozen: the network's input)
    fc.weight    [10, 784]       axis 1: ids 3..18, each repeated 49 times (a 7x7 map was flattened)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.errors import UnknownNameError, WidthError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Units = Sequence[int] | IntArray


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive unit ids ``start … start + count - 1``, each ``repeat`` times in a row."""

    start: int
    count: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor that carries channels.

    ``role`` says what a cut here does: ``out`` fewer outputs of a weighted layer, ``in`` fewer inputs of one, ``scale``
    fewer entries of a per-channel tensor (normalisation, bias), ``map`` fewer entries of a channel map.
    """

    dim: int
    role: str
    runs: tuple[Run, ...]

    def ids(self) -> IntArray:
        """Unit id of each entry, ``[size]``."""
        return expand(self.runs)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer that is cut.

    ``learned`` marks parameters. ``indexes`` is set for channel maps only: the ids that the tensor's *values* point into.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    learned: bool = True
    indexes: tuple[Run, ...] | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights; ``positions`` is how often its weight is applied per sample, so MACs = positions x elements.

    ``size`` is the spatial size of what a convolution takes in, ``stride`` and ``dilation`` are its own; all are empty for
    other layers. ``groups`` is its number of groups, 0 that of a transposed one, whose weight has its inputs first.
    """

    name: str
    kind: str
    weight: str
    positions: int
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Product:
    """A product of two activations (attention): its MACs are ``positions`` times the entries along each of ``axes``."""

    positions: int
    axes: tuple[tuple[Run, ...], ...]


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor that an operation makes, alive from step ``first`` to step ``last``.

    Per sample it has ``positions`` entries of each of its ``channels``, and ``fixed`` entries that no cut changes.
    """

    first: int
    last: int
    positions: int
    channels: tuple[Run, ...]
    fixed: int = 0


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are cut together, wherever they occur.

    Attributes:
        name: The first layer that produces the channels.
        width: Channels of the group in the full network.
        units: How many of them can be removed independently; ``width // units`` channels go at once.
        start: First unit id.
        members: Names of the layers that a cut changes, in order of execution.
        frozen: Why the group cannot be cut, or None.
    """

    name: str
    width: int
    units: int
    start: int
    members: tuple[str, ...]
    frozen: str | None = None

    @property
    def divisor(self) -> int:
        """Channels that can only be removed at once; every width is a multiple of it."""
        return self.width // self.units


@dataclass(frozen=True)
class Architecture:
    """Layers, tensors and channel groups of a network; no weights.

    Attributes:
        input_shape: Shape of one sample, without the batch dimension.
        input_dtype: Its type, as in ``float32``.
        groups: All groups, the frozen ones too.
        layers: Convolutions, linear and recurrent layers and embeddings in order of execution (what costs MACs and what
            scores channels).
        tensors: Every tensor that has a channel axis.
        uncut: Elements of all learned tensors that have no channel axis.
        products: Matrix products of activations, whose MACs follow from the widths too.
        activations: What a forward pass of one sample keeps in memory, and when.
        fixed_macs: Multiply-adds that are neither of a layer nor of a product, which no cut changes.
    """

    input_shape: tuple[int, ...]
    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    uncut: int = 0
    products: tuple[Product, ...] = ()
    activations: tuple[Activation, ...] = ()
    fixed_macs: int = 0
    input_dtype: str = "float32"

    @cached_property
    def free_groups(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be cut."""
        return tuple(g for g in self.groups if g.frozen is None)

    @cached_property
    def units(self) -> int:
        """How many unit ids exist."""
        return sum(g.units for g in self.groups)

    @cached_property
    def by_name(self) -> Mapping[str, ChannelGroup]:
        """Groups by name."""
        return {g.name: g for g in self.groups}

    @cached_property
    def tensor(self) -> Mapping[str, Tensor]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def axis_ids(self) -> Mapping[tuple[str, int], IntArray]:
        """Unit ids along each channel axis, by (tensor name, dimension)."""
        return {(t.name, a.dim): a.ids() for t in self.tensors for a in t.axes}

    @cached_property
    def owner(self) -> IntArray:
        """Index of the group that owns each unit id, ``[units]``."""
        return np.repeat(np.arange(len(self.groups)), [g.units for g in self.groups])

    @cached_property
    def places(self) -> Mapping[str, tuple[tuple[Tensor, Axis], ...]]:
        """Where each group's channels lie, by group name."""
        found: dict[str, list[tuple[Tensor, Axis]]] = {g.name: [] for g in self.groups}
        for tensor in self.tensors:
            for axis in tensor.axes:
                spans = {(int(self.owner[r.start]), int(self.owner[r.start + r.count - 1])) for r in axis.runs}
                for index in sorted({i for first, last in spans for i in range(first, last + 1)}):
                    found[self.groups[index].name].append((tensor, axis))
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def producers(self) -> Mapping[str, tuple[str, ...]]:
        """Layers that put out a group's channels, by group name."""
        layers: dict[str, list[str]] = {}
        for layer in self.layers:
            layers.setdefault(layer.weight, []).append(layer.name)
        return {
            name: tuple(dict.fromkeys(n for t, axis in places if axis.role == "out" for n in layers.get(t.name, ())))
            for name, places in self.places.items()
        }

    def group(self, name: str) -> ChannelGroup:
        """The group of that name; raises UnknownNameError."""
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownNameError("channel group", name, self.by_name) from None

    def resolve(self, channels: Mapping[str, int]) -> dict[str, int]:
        """Widths by group name from widths by group or layer name.

        Raises:
            UnknownNameError: Neither a group nor a layer has that name.
            WidthError: A width is out of range, the group is frozen, or a layer's outputs belong to several groups.
        """
        widths: dict[str, int] = {}
        for name, width in channels.items():
            if name not in self.by_name and width == self._layer_width(name):
                continue  # a layer of several groups that stays whole
            group = self.by_name[name] if name in self.by_name else self._group_of_layer(name)
            check_width(group, width)
            if widths.setdefault(group.name, int(width)) != width:
                raise WidthError(
                    f"{name!r} asks for {width} channels, but its group {group.name!r} already got {widths[group.name]}."
                )
        return widths

    def keep(self, kept: Mapping[str, Units]) -> BoolArray:
        """Which unit ids stay, ``[units]``, from kept *unit* positions by group name; unnamed groups stay whole."""
        keep = np.ones(self.units, dtype=bool)
        for name, positions in kept.items():
            group = self.group(name)
            keep[group.start : group.start + group.units] = False
            keep[group.start + np.asarray(positions, dtype=np.int64)] = True
        return keep

    def to_json(self) -> dict[str, Any]:
        """JSON form; :meth:`from_json` reads it back equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """Read :meth:`to_json`'s form."""
        return cls(
            input_shape=tuple(data["input_shape"]),
            groups=tuple(ChannelGroup(**{**g, "members": tuple(g["members"])}) for g in data["groups"]),
            layers=tuple(
                Layer(**{**layer, **{name: tuple(layer[name]) for name in ("size", "stride", "dilation")}})
                for layer in data["layers"]
            ),
            tensors=tuple(_tensor_from_json(t) for t in data["tensors"]),
            uncut=data["uncut"],
            products=tuple(Product(p["positions"], tuple(_runs(a) for a in p["axes"])) for p in data["products"]),
            activations=tuple(Activation(**{**a, "channels": _runs(a["channels"])}) for a in data["activations"]),
            fixed_macs=data["fixed_macs"],
            input_dtype=data["input_dtype"],
        )

    def _layer_width(self, name: str) -> int | None:
        """Output channels of a layer, or None where no layer has that name."""
        layer = next((found for found in self.layers if found.name == name), None)
        axes = self.tensor[layer.weight].axes if layer and layer.weight in self.tensor else ()
        return sum(len(a.ids()) for a in axes if a.role == "out") or None

    def _group_of_layer(self, name: str) -> ChannelGroup:
        outputs = [t for layer in self.layers if layer.name == name and (t := self.tensor.get(layer.weight))]
        if not outputs:
            raise UnknownNameError("channel group or layer", name, {*self.by_name, *(layer.name for layer in self.layers)})
        ids = np.concatenate([a.ids() for a in outputs[0].axes if a.role == "out"] or [np.empty(0, np.int64)])
        owners = sorted({self.groups[i].name for i in self.owner[ids]})
        if len(owners) != 1:
            raise WidthError(f"The outputs of layer {name!r} belong to the groups {owners}; name them instead.")
        return self.by_name[owners[0]]


def check_width(group: ChannelGroup, width: int) -> None:
    """Raise WidthError unless the group can be ``width`` channels wide."""
    if width == group.width:
        return
    if group.frozen is not None:
        raise WidthError(f"Group {group.name!r} cannot be {width} wide: it is frozen at {group.width} ({group.frozen}).")
    if not isinstance(width, int | np.integer) or not group.divisor <= width <= group.width or width % group.divisor:
        allowed = f"{group.divisor} to {group.width}" + (f" in steps of {group.divisor}" if group.divisor > 1 else "")
        raise WidthError(f"Group {group.name!r} cannot be {width} wide; allowed: {allowed}.")


def expand(runs: Sequence[Run]) -> IntArray:
    """Ids of a sequence of runs, ``[size]``."""
    if not runs:
        return np.empty(0, np.int64)
    return np.concatenate([np.repeat(np.arange(r.start, r.start + r.count, dtype=np.int64), r.repeat) for r in runs])


def compress(ids: IntArray) -> tuple[Run, ...]:
    """The shortest sequence of runs that expands to ``ids`` (greedy: equal neighbours first, then steps of one)."""
    if not len(ids):
        return ()
    edges = np.flatnonzero(np.diff(ids)) + 1
    firsts = np.concatenate([[0], edges])
    values, repeats = ids[firsts], np.diff(np.concatenate([firsts, [len(ids)]]))
    breaks = np.flatnonzero((np.diff(values) != 1) | (np.diff(repeats) != 0)) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(values)]]))
    return tuple(Run(int(values[s]), int(c), int(repeats[s])) for s, c in zip(starts, counts, strict=True))


def _runs(data: Iterable[Mapping[str, int]]) -> tuple[Run, ...]:
    return tuple(Run(**run) for run in data)


def _tensor_from_json(data: Mapping[str, Any]) -> Tensor:
    return Tensor(
        name=data["name"],
        shape=tuple(data["shape"]),
        axes=tuple(Axis(a["dim"], a["role"], _runs(a["runs"])) for a in data["axes"]),
        learned=data["learned"],
        indexes=None if data["indexes"] is None else _runs(data["indexes"]),
    )
