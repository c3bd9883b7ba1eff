"""Operations that only move entries: executed on the ids themselves, plus what the sizes they name demand of a cut."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture.channel_ids import FIXED, ZERO
from automl_prune.architecture.rules.base import Call, Graph, attach, rule, shape_of
from automl_prune.architecture.values import Value, compact, reshaped

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


@rule("slice", "narrow", on_weights=True)
def _slice(call: Call) -> object:
    """A part of a regular partition is taken for one of equal parts; any other bound is a fixed position."""
    value = call.value("self")
    assert value is not None
    dim = int(call["dim"]) % len(value.shape)
    size = value.shape[dim]
    if not value.varies(dim):
        return Value(value.core, call.shape, value.weight)
    start = int(call["start"] or 0)
    start = max(0, start + size) if start < 0 else min(start, size)
    step = int(call.arguments.get("step") or 1)
    length = call.shape[dim]
    stop = start + (length - 1) * step + 1 if length else start
    if value.weight is None:
        _fix_bounds(call.graph, value, dim, (start, stop, step))
    index = (slice(None),) * dim + (slice(start, stop, step),)
    return value.moved(value.core[index], call.shape)


def _fix_bounds(graph: Graph, value: Value, dim: int, bounds: tuple[int, int, int]) -> None:
    start, stop, step = bounds
    size, length = value.shape[dim], stop - start
    along = np.moveaxis(value.core, dim, 0)
    if step != 1:
        graph.ids.freeze(along, "sliced in steps")
    elif 0 < length < size and size % length == 0 and start % length == 0:
        for part in range(size // length):
            graph.ids.unite(along[:length], along[part * length : (part + 1) * length], "a slice")
    elif length < size:
        graph.ids.freeze(along[: stop if stop < size else start], "before a fixed position of a slice")


@rule("select", on_weights=True)
def _select(call: Call) -> object:
    """One position: a fixed one, so nothing before it may go."""
    value = call.value("self")
    assert value is not None
    dim, index = int(call["dim"]) % len(value.shape), int(call["index"])
    along = np.moveaxis(value.core, dim, 0)
    if not value.varies(dim):
        return value.moved(along[0], call.shape)
    if value.weight is None:
        call.graph.ids.freeze(along[: index + 1] if index >= 0 else along[index:], "up to a fixed position that is selected")
    return value.moved(along[index], call.shape)


@rule("unbind", on_weights=True)
def _unbind(call: Call) -> object:
    value = call.value("self")
    assert value is not None
    dim = int(call["dim"]) % len(value.shape)
    if value.varies(dim) and value.weight is None:
        call.graph.freeze(value, "unbound along its channels")
    along = np.moveaxis(value.core, dim, 0)
    return [value.moved(along[i if value.varies(dim) else 0], out.shape) for i, out in enumerate(call.out)]


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", on_weights=True)
@rule("unsafe_split_with_sizes", on_weights=True)
def _split(call: Call) -> object:
    """Equal parts lose the same positions; unequal ones have fixed sizes."""
    value = call.value("self")
    assert value is not None
    dim = int(call["dim"]) % len(value.shape)
    sizes = [t.shape[dim] for t in call.out]
    if not value.varies(dim):
        return [Value(value.core, tuple(t.shape), value.weight) for t in call.out]
    bounds = np.cumsum([0, *sizes])
    along = [value.core[(slice(None),) * dim + (slice(a, b),)] for a, b in pairwise(bounds)]
    if value.weight is None and len(set(sizes)) == 1:
        for part in along[1:]:
            call.graph.ids.unite(along[0], part, f"a {call.op}")
    elif value.weight is None:
        call.graph.freeze(value, f"parted into unequal sizes by {call.op}")
    return [value.moved(part, t.shape) for part, t in zip(along, call.out, strict=True)]


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> object:
    parts = call.values("tensors")
    dim = int(call["dim"]) % len(call.shape)
    # torch still accepts the empty tensor of old among others
    return _joined(call.graph, [p for p in parts if len(p.shape) == len(call.shape)], call.shape, dim)


@rule("stack")
def _stack(call: Call) -> object:
    dim = int(call["dim"]) % len(call.shape)
    parts = [
        Value(np.expand_dims(v.core, dim), (*v.shape[:dim], 1, *v.shape[dim:]), v.weight) for v in call.values("tensors")
    ]
    return _joined(call.graph, parts, call.shape, dim)


def _joined(graph: Graph, parts: Sequence[Value], shape: tuple[int, ...], dim: int) -> Value:
    """Parts side by side along ``dim``; along every other dimension they have the same channels."""
    ids = [p for p in parts if p.weight is None]
    elsewhere = {d for p in ids for d in p.varying if d != dim}
    if not ids:
        return Value.constant(FIXED, shape)
    if not elsewhere:
        pieces = [p.full([dim]) if p.weight is None else Value.constant(FIXED, p.shape).full([dim]) for p in parts]
        return Value(compact(np.concatenate(pieces, axis=dim)), shape)
    lead = next(p for p in ids if set(p.varying) & elsewhere)
    if any(p.varies(dim) for p in ids):
        for p in ids:
            graph.freeze(p, "joined along one dimension while channels vary along another")
        return graph.solid(shape, "cat", "joined along one dimension while channels vary along another")
    for p in parts:
        if p.weight is not None:
            attach(graph, p, lead, p.weight.rpartition(".")[0] or p.weight)
        elif p is not lead:
            graph.ids.unite(lead.core, p.core, "cat")
    return Value(lead.core, shape)


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


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> object:
    """``[C r r]`` channels become ``[C]``: the r x r of each go together."""
    value = call.value("self")
    ids = value.vector(-3) if value is not None else None
    if ids is None:
        return NotImplemented
    parts = ids.reshape(-1, int(call["upscale_factor"]) ** 2)
    call.graph.ids.unite(parts[:, :1], parts, call.op)
    return Value.along(parts[:, 0], call.shape, len(call.shape) - 3)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> object:
    value = call.value("self")
    ids = value.vector(-3) if value is not None else None
    if ids is None:
        return NotImplemented
    return Value.along(ids.repeat(int(call["downscale_factor"]) ** 2), call.shape, len(call.shape) - 3)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call) -> object:
    """The groups lose the same positions."""
    value = call.value("self") or call.value("input")
    ids = value.vector(1) if value is not None else None
    if ids is None:
        return NotImplemented
    parts = ids.reshape(int(call["groups"]), -1)
    call.graph.ids.unite(parts[:1], parts, call.op)
    return Value.along(parts[0].repeat(len(parts)), call.shape, 1)


@rule("im2col")
def _unfold(call: Call) -> object:
    value = call.value("self")
    ids = value.vector(1) if value is not None else None
    if ids is None:
        return NotImplemented
    return Value.along(ids.repeat(call.shape[1] // len(ids)), call.shape, 1)


@rule("col2im")
def _fold(call: Call) -> object:
    """Columns of one channel go together."""
    value = call.value("self")
    ids = value.vector(1) if value is not None else None
    if ids is None:
        return NotImplemented
    parts = ids.reshape(call.shape[1], -1)
    call.graph.ids.unite(parts[:, :1], parts, call.op)
    return Value.along(parts[:, 0], call.shape, 1)


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _pad(call: Call) -> object:
    """Padding positions keeps channels; channels can be padded with zeros, which are never cut."""
    value = call.value("self")
    assert value is not None
    widths = shape_of(call.arguments.get("pad", call.arguments.get("padding")))
    core = value.core
    for i in range(len(widths) // 2):
        dim = len(value.shape) - 1 - i
        before, after = widths[2 * i], widths[2 * i + 1]
        if not (before or after) or not value.varies(dim):
            continue
        if before < 0 or after < 0 or not _with_zeros(call):
            return NotImplemented
        core = np.pad(core, [(before, after) if d == dim else (0, 0) for d in range(core.ndim)], constant_values=ZERO)
    return Value(core, call.shape)


def _with_zeros(call: Call) -> bool:
    return call.arguments.get("mode", "constant") == "constant" and not call.arguments.get("value")


@rule("index_select", "index", on_weights=True)
def _index(call: Call) -> Any:
    """Positions can be chosen freely; choosing channels by an integer buffer makes that buffer a channel map."""
    value = call.value("self")
    if value is None:
        return NotImplemented
    given = call["indices"] if call.op == "index" else [None] * (int(call["dim"]) % len(value.shape)) + [call["index"]]
    dims = [d for d, index in enumerate(given) if index is not None]
    if value.weight:  # which rows were chosen does not matter to what follows the columns
        index0 = tuple(slice(0, 1) if d in dims else slice(None) for d in range(len(value.shape)))
        return _chosen(Value(value.core[index0], value.shape, value.weight), call.shape, dims)
    if not any(value.varies(d) for d in dims):
        return _chosen(value, call.shape, dims)
    index = given[dims[0]]
    name = call.graph.names.get(id(index)) if len(dims) == 1 else None
    channels = value.vector(dims[0])
    if name not in call.graph.buffers or channels is None or channels[-1] != ZERO or index.dim() != 1:
        return NotImplemented
    # Cut channels that were chosen are replaced by the zero channel at the end, so both sides are free.
    ids = call.graph.ids
    outputs = ids.attach(name, 0, "map", name.rpartition(".")[0], ids.mint(call.shape[dims[0]]))
    ids.indexed[name] = channels
    return Value.along(outputs, call.shape, dims[0])


def _chosen(value: Value, shape: tuple[int, ...], dims: Sequence[int]) -> object:
    """Entries that do not vary along the chosen dimensions: what is left of them lies behind, in order."""
    rest = [d for d in range(len(value.shape)) if d not in dims]
    if not value.varying:
        return Value(value.core.reshape(-1)[:1].reshape((1,) * len(shape)), shape, value.weight)
    adjacent = list(dims) == list(range(dims[0], dims[-1] + 1))
    if not adjacent:
        return NotImplemented
    extra = len(shape) - len(rest)
    core = value.core.transpose([*rest[: dims[0]], *dims, *rest[dims[0] :]])
    kept = [core.shape[i] for i in range(dims[0])], [core.shape[i] for i in range(dims[-1] + 1, core.ndim)]
    return Value(core.reshape([*kept[0], *([1] * extra), *kept[1]]), shape, value.weight)
