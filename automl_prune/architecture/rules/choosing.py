"""Padding, and choosing entries by index."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from automl_prune.architecture.channel_ids import ZERO
from automl_prune.architecture.rules.base import Call, rule, shape_of
from automl_prune.architecture.values import Value


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
