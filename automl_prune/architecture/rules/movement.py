"""Operations that only move entries: executed on the ids themselves, plus what the sizes they name demand of a cut."""

from functools import partial

import numpy as np
import numpy.typing as npt

from automl_prune.architecture.rules.base import Call, Graph, rule, shape_of
from automl_prune.architecture.values import Value, reshaped

IntArray = npt.NDArray[np.int64]


@rule(
    "view",
    "reshape",
    "_unsafe_view",
    "_reshape_alias",
    "view_as",
    "reshape_as",
    "flatten",
    "unflatten",
    "ravel",
    on_weights=True,
)
def _reshape(call: Call) -> object:
    """A dimension of channels that is split may vary along one of its parts: the one left open (-1), else the largest."""
    value = call.value("self") or call.value("input")
    assert value is not None
    return reshaped(value, call.shape, partial(_one_part, call.graph, _open_dim(call)))


def _open_dim(call: Call) -> int | None:
    """The dimension of the result whose size was written as -1."""
    sizes = next((call.arguments[k] for k in ("size", "shape", "sizes") if k in call.arguments), None)
    if not isinstance(sizes, list | tuple) or -1 not in sizes:
        return None
    first = int(call["dim"]) % len(call.graph.value(call["self"]).shape) if call.op == "unflatten" else 0
    return first + list(sizes).index(-1)


def _one_part(graph: Graph, opened: int | None, entries: IntArray, offset: int) -> IntArray:
    """Unite a block ``[rest, *sizes]`` along all of its parts but one."""
    sizes = entries.shape[1:]
    inside = opened is not None and offset <= opened < offset + len(sizes)
    free = opened - offset if inside and opened is not None else max(range(len(sizes)), key=lambda d: (sizes[d], d))
    others = tuple(d for d in range(1, entries.ndim) if d != free + 1)
    head = entries[tuple(slice(0, 1) if d in others else slice(None) for d in range(entries.ndim))]
    graph.ids.unite(head, entries, "a reshape")
    return np.broadcast_to(head, entries.shape)


@rule(
    "permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "swapdims", "moveaxis", "adjoint", "mT", on_weights=True
)
def _permute(call: Call) -> object:
    value = call.value("self")
    assert value is not None
    order = _order(call, len(value.shape))
    return Value(value.core.transpose(order), tuple(value.shape[d] for d in order), value.weight)


def _order(call: Call, dims: int) -> list[int]:
    """Old dimension of each new one."""
    if call.op == "permute":
        return [int(d) % dims for d in call["dims"]]
    given = [a for name, a in call.arguments.items() if name != "self"]
    if call.op in ("movedim", "moveaxis"):
        source, target = ([d % dims for d in shape_of(g)] for g in given)
        order = [d for d in range(dims) if d not in source]
        for place, dim in sorted(zip(target, source, strict=True)):
            order.insert(place, dim)
        return order
    order = list(range(dims))
    if call.op in ("t", "numpy_T"):
        return order[::-1]
    a, b = (int(g) % dims for g in given) if len(given) == 2 else (dims - 2, dims - 1)
    order[a], order[b] = order[b], order[a]
    return order


@rule("unsqueeze", "squeeze", on_weights=True)
def _ones(call: Call) -> object:
    """Dimensions of size one come and go."""
    value = call.value("self")
    assert value is not None
    return reshaped(value, call.shape, partial(_one_part, call.graph, None))


@rule("expand", "expand_as", "broadcast_to", on_weights=True)
def _expand(call: Call) -> object:
    """Broadcast; what is expanded to another tensor's sizes is cut with that tensor."""
    value = call.value("self")
    assert value is not None
    wide = value.expanded(call.shape)
    other = call.value("other")
    if other is None or other.weight or value.weight or (value.core >= 0).any():
        return wide
    return Value(other.core, call.shape)


@rule("repeat", "tile", on_weights=True)
def _repeat(call: Call) -> object:
    value = call.value("self")
    assert value is not None
    times = shape_of(call.arguments.get("repeats", call.arguments.get("dims")))
    wide = value.expanded((1,) * (len(times) - len(value.shape)) + value.shape)
    reps = [t if wide.varies(d) else 1 for d, t in enumerate((1,) * (len(wide.shape) - len(times)) + times)]
    return Value(np.tile(wide.core, reps), call.shape, value.weight)


@rule("repeat_interleave")
def _interleave(call: Call) -> object:
    value, times, dim = call.value("self"), call.arguments.get("repeats"), call.arguments.get("dim")
    if value is None or not isinstance(times, int) or dim is None:
        return NotImplemented
    return Value(value.core.repeat(times, int(dim)) if value.varies(int(dim)) else value.core, call.shape)


@rule("flip", on_weights=True)
def _flip(call: Call) -> object:
    value = call.value("self")
    assert value is not None
    return Value(np.flip(value.core, tuple(int(d) for d in call["dims"])), call.shape, value.weight)


@rule("roll")
def _roll(call: Call) -> object:
    """Positions may be rolled, channels not: how far is a fixed number."""
    value = call.value("self")
    assert value is not None
    if any(value.varies(int(d)) for d in call["dims"]) or (not call["dims"] and value.varying):
        return NotImplemented
    return value
