"""Matrix products of activations: what is summed over must be the same channels on both sides."""

import math

import numpy as np
import numpy.typing as npt

from automl_prune.architecture.channel_ids import FIXED
from automl_prune.architecture.rules.base import Call, Graph, RawProduct, rule
from automl_prune.architecture.rules.elementwise import aligned, combine
from automl_prune.architecture.rules.weighted import applied, matrix
from automl_prune.architecture.values import Value

IntArray = npt.NDArray[np.int64]


@rule("matmul", "bmm", "mm", "__matmul__")
def _matmul(call: Call) -> object:
    """``[…, n, k] @ […, k, m]``."""
    other = "other" if "other" in call.arguments else "mat2"
    left, found = call.value("self"), matrix(call, other)
    if left is not None and not left.weight and found is not None:
        return _with_matrix(call, left, other, found)
    right = call.value(other)
    if left is None or right is None or right.weight or min(len(left.shape), len(right.shape)) < 2:
        return NotImplemented
    if left.weight:
        left = Value.constant(FIXED, left.shape)
    return multiplied(call.graph, call.op, left, right, call.shape)


@rule("addmm")
def _addmm(call: Call) -> object:
    """A product with a parameter, added to something."""
    added, left, found = call.value("self"), call.value("mat1"), matrix(call, "mat2")
    if added is None or left is None or left.weight or found is None:
        return NotImplemented
    made = _with_matrix(call, left, "mat2", found)
    return combine(call.graph, call.op, made, added).expanded(call.shape)


def _with_matrix(call: Call, left: Value, other: str, found: tuple[str, bool]) -> Value:
    """``left @ matrix``, where a parameter as it is is ``[in, out]``."""
    weight, turned = found
    return applied(call, left, weight, call[other].shape[1], transposed=not turned)


@rule("baddbmm")
def _baddbmm(call: Call) -> object:
    """A batched product added to something."""
    added, left, right = call.value("self"), call.value("batch1"), call.value("batch2")
    if added is None or left is None or right is None or left.weight or right.weight:
        return NotImplemented
    return combine(call.graph, call.op, added, multiplied(call.graph, call.op, left, right, call.shape)).expanded(call.shape)


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> object:
    """softmax(q k') v: values lose channels freely, queries and keys only where the scale is given."""
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    if query is None or key is None or value is None or query.weight or key.weight or value.weight:
        return NotImplemented
    if call.arguments.get("scale") is None:
        for which in (query, key):
            if which.varies(len(which.shape) - 1):
                call.graph.freeze(which, f"scaled by their number in {call.op}")
    scores = (*call.shape[:-1], key.shape[-2])
    order = list(range(len(key.shape)))
    order[-2:] = order[-1], order[-2]
    transposed = Value(key.core.transpose(order), tuple(key.shape[d] for d in order))
    weights = multiplied(call.graph, call.op, query, transposed, scores)
    mask = call.value("attn_mask")
    if mask is not None:
        weights = combine(call.graph, call.op, weights, mask).expanded(scores)
    return multiplied(call.graph, call.op, weights, value, call.shape)


def multiplied(graph: Graph, op: str, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
    """The value of ``left @ right``, whose multiply-adds are recorded."""
    left, right = aligned(left, len(shape)), aligned(right, len(shape))
    if len(left.varying) > 1 or len(right.varying) > 1:
        return _given_up(graph, op, left, right, shape)
    rows, cols, inner = len(shape) - 2, len(shape) - 1, left.shape[-1]
    kept: dict[int, IntArray] = {}
    summed: list[IntArray] = []
    for mine, other, sum_dim, other_sum_dim in ((left, right, cols, rows), (right, left, rows, cols)):
        for dim in mine.varying:
            ids = mine.core.reshape(-1)
            partner = other_sum_dim if dim == sum_dim else dim
            meets = dim == sum_dim or dim < rows
            if meets and other.varies(partner):
                graph.ids.unite(ids, other.core.reshape(-1), op)
            elif meets and other.shape[partner] > 1:
                graph.ids.freeze(ids, f"meets a fixed size in {op}")
            if dim == sum_dim:
                summed = summed or [ids]
            else:
                kept[dim] = ids
    sizes = {**dict(enumerate(shape)), len(shape): inner}
    fixed = math.prod(size for dim, size in sizes.items() if dim not in kept and not (dim == len(shape) and summed))
    graph.products.append(RawProduct(fixed // graph.batch, (*kept.values(), *summed)))
    if len(kept) > 1:
        return _given_up(graph, op, left, right, shape)
    return next((Value.along(ids, shape, dim) for dim, ids in kept.items()), Value.constant(FIXED, shape))


def _given_up(graph: Graph, op: str, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
    for value in (left, right):
        graph.freeze(value, f"{op} of channels on two dimensions cannot be cut through")
    return graph.solid(shape, op, f"made by {op} of channels on two dimensions")
