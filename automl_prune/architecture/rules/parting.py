"""Taking tensors apart and joining them: equal parts lose the same positions, fixed positions stay where they are."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from automl_prune.architecture.channel_ids import FIXED
from automl_prune.architecture.rules.base import Call, Graph, attach, rule
from automl_prune.architecture.values import Value, compact


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
            attach(graph, p, lead)
        elif p is not lead:
            graph.ids.unite(lead.core, p.core, "cat")
    return Value(lead.core, shape)
