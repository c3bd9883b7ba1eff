"""What rules work with: the ledger of a run, one call of an operation, and the table that rules register in."""

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from automl_prune.architecture.channel_ids import FIXED, ChannelIds
from automl_prune.architecture.model import Layer
from automl_prune.architecture.values import Value, compact

IntArray = npt.NDArray[np.int64]
Rule = Callable[["Call"], Any]

RULES: dict[str, Rule] = {}
SAME_SHAPE: set[str] = set()
"""Operations whose result has the shape and type of their first argument."""
ON_WEIGHTS: set[str] = set()
"""Operations whose rule also holds where only parameters are touched: they move entries, change each alone, or put out
channels of their own."""


def rule(*names: str, on_weights: bool = False, same_shape: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operations by plain name (``relu`` for ``aten::relu_``)."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        if same_shape:
            SAME_SHAPE.update(names)
        if on_weights:
            ON_WEIGHTS.update(names)
        return function

    return add


@dataclass(frozen=True)
class RawProduct:
    """A product of activations with raw ids along its varying axes."""

    positions: int
    axes: tuple[IntArray, ...]


@dataclass
class Graph:
    """The state of a tracing run.

    Attributes:
        ids: The ledger.
        batch: Samples in the example.
        names: Name of every parameter and buffer, by ``id`` of its tensor.
        shapes: Their shapes, by name.
        rigid: Why neither side of a weight can be cut, by the weight's name.
        buffers: Values of integer buffers, by name.
        values: What is known of each tensor that is still in use, by ``id``; others have a fixed size.
        whole: Parameters that were moved or combined, by name, with their entries in place.
    """

    ids: ChannelIds
    batch: int
    names: dict[int, str]
    shapes: dict[str, tuple[int, ...]]
    rigid: dict[str, str]
    buffers: dict[str, Tensor]
    values: dict[int, Value] = field(default_factory=dict)
    whole: dict[str, Value] = field(default_factory=dict)
    _alive: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    products: list[RawProduct] = field(default_factory=list)

    def knows(self, thing: object) -> bool:
        """Whether something is an activation, or a sequence with one."""
        if isinstance(thing, Tensor):
            known = self.values.get(id(thing))
            return known is not None and known.weight is None
        return isinstance(thing, list | tuple) and any(self.knows(item) for item in thing)

    def has_weight(self, thing: object) -> bool:
        """Whether something is a parameter or buffer or derived from one, or a sequence with such."""
        if isinstance(thing, Tensor):
            return id(thing) in self.names or id(thing) in self.values
        return isinstance(thing, list | tuple) and any(self.has_weight(item) for item in thing)

    def value(self, tensor: Tensor) -> Value:
        """What a tensor's entries are: ids, positions in a parameter, or a fixed size."""
        known = self.values.get(id(tensor))
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        shape = tuple(tensor.shape)
        if name is None or name in self.buffers:
            return Value.constant(FIXED, shape)
        if name not in self.whole:
            self.whole[name] = Value(compact(np.arange(math.prod(shape), dtype=np.int64).reshape(shape)), shape, name)
        return self.whole[name]

    def plain(self, value: Value) -> str | None:
        """The parameter whose entries these are, each in its place."""
        return value.weight if value.weight and value.same(self.whole[value.weight]) else None

    def transposed(self, value: Value) -> str | None:
        """The matrix parameter whose entries these are, rows for columns."""
        if not value.weight or len(value.shape) != 2:
            return None
        turned = Value(value.core.T, value.shape[::-1], value.weight)
        return self.plain(turned)

    def remember(self, tensor: Tensor, value: Value) -> None:
        """Say what a tensor's entries are."""
        key = id(tensor)
        self.values[key] = value
        if key not in self._alive:
            self._alive[key] = weakref.ref(tensor, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        del self.values[key], self._alive[key]

    def producers(self, values: Iterable[Value]) -> frozenset[str]:
        """The layers that put out the channels of some values, as far as they are known yet."""
        ids = [v.core.ravel() for v in values if v.weight is None]
        met = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
        axes = self.ids.axes.values()
        return frozenset(a.layer for a in axes if a.role == "out" and np.isin(met[met >= 0], a.ids).any())

    def freeze(self, value: Value | None, reason: str) -> None:
        """Freeze every id of a value."""
        if value is not None and value.weight is None:
            self.ids.freeze(np.unique(value.core), reason)

    def solid(self, shape: Sequence[int], name: str, reason: str) -> Value:
        """Entries that can never be cut."""
        return Value.constant(self.ids.solid(name, reason), shape)


@dataclass(frozen=True)
class Call:
    """One call of an operation on tensors.

    Attributes:
        graph: The run.
        op: The operation's plain name.
        arguments: By the names of its schema.
        out: What it returned.
    """

    graph: Graph
    op: str
    arguments: dict[str, Any]
    out: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, name: str) -> Value | None:
        """The value of a tensor argument; None for anything else."""
        argument = self.arguments.get(name)
        return self.graph.value(argument) if isinstance(argument, Tensor) else None

    def along(self, name: str, dim: int) -> IntArray | None:
        """The ids of a tensor argument along ``dim``; None where there is none, or they vary along another dimension."""
        value = self.value(name)
        return None if value is None else value.vector(dim)

    def values(self, name: str) -> list[Value]:
        """The values of a list of tensors."""
        return [self.graph.value(t) for t in self.arguments[name] if isinstance(t, Tensor)]

    def weight(self, name: str) -> str | None:
        """The name of the parameter or buffer that an argument is, with its entries in their places."""
        argument = self.arguments.get(name)
        if not isinstance(argument, Tensor):
            return None
        derived = self.graph.values.get(id(argument))
        return self.graph.plain(derived) if derived is not None else self.graph.names.get(id(argument))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        out = self.out if isinstance(self.out, Tensor) else self.out[0]
        return tuple(out.shape)


def apply_rule(call: Call) -> None:
    """Say what a call's results are: by its rule, or opaque where there is none or it declines."""
    found = RULES[call.op](call) if call.op in RULES else NotImplemented
    if found is NotImplemented:
        found = _opaque(call)
    results = list(_tensors(call.out))
    values = found if isinstance(found, list | tuple) else [found] * len(results)
    for tensor, value in zip(results, values, strict=True):
        if value is not None:
            call.graph.remember(tensor, value)


def layer_of(weight: str) -> str:
    """The layer that a parameter belongs to; a bare parameter of the network stands for itself."""
    module, parametrized, _ = weight.partition(".parametrizations.")
    return module if parametrized else weight.rpartition(".")[0] or weight


def attach(graph: Graph, value: Value, ids: Value) -> None:
    """A parameter meets channels entry by entry: the dimension of it that follows the channels is cut with them.

    Freezes the channels where no single dimension of the parameter follows them.
    """
    assert value.weight is not None
    shape = graph.shapes[value.weight]
    if math.prod(shape) == 1 or (ids.core < 0).all():
        return
    positions, channels = np.broadcast_arrays(value.core, ids.core)
    for dim, entries in enumerate(_follow(positions.ravel(), channels.ravel(), shape)):
        if entries is not None:
            graph.ids.attach(value.weight, dim, "scale", layer_of(value.weight), entries)
            return
    graph.freeze(ids, f"meets {value.weight} in an order that cannot be followed")


def own_channels(graph: Graph, value: Value) -> Value:
    """A parameter that meets another one, as channels of its own: what they become is known when they meet an activation."""
    assert value.weight is not None
    if len(value.varying) != 1:
        return Value.constant(FIXED, value.shape)
    dim = value.varying[0]
    own = Value.along(graph.ids.mint(value.shape[dim]), value.shape, dim)
    attach(graph, value, own)
    return own


def _follow(positions: IntArray, channels: IntArray, shape: Sequence[int]) -> list[IntArray | None]:
    """Per dimension of a parameter: the ids along it, where the index along it determines the channel."""
    found: list[IntArray | None] = []
    for dim, size in enumerate(shape):
        index = positions // math.prod(shape[dim + 1 :]) % size
        entries = np.full(size, FIXED, dtype=np.int64)
        entries[index] = channels
        found.append(entries if size > 1 and (entries[index] == channels).all() else None)
    return found


def _opaque(call: Call) -> Any:
    """Inputs are frozen; results can never be cut."""
    reason = f"used by {call.op}, which cannot be cut through"
    for argument in call.arguments.values():
        for tensor in _tensors(argument):
            call.graph.freeze(call.graph.values.get(id(tensor)), reason)
    made = f"made by {call.op}, which cannot be cut through"
    return [call.graph.solid(t.shape, call.op, made) for t in _tensors(call.out)]


def _tensors(thing: object) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return [thing]
    return [t for item in thing for t in _tensors(item)] if isinstance(thing, list | tuple) else []


def shape_of(thing: Any) -> tuple[int, ...]:
    """A size argument as plain numbers."""
    return tuple(int(s) for s in thing) if isinstance(thing, list | tuple | torch.Size) else (int(thing),)
