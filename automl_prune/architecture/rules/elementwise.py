"""Operations that work entry by entry: channels that are combined are the same channel."""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from automl_prune.architecture.channel_ids import FIXED
from automl_prune.architecture.rules.base import Call, Graph, attach, own_channels, rule
from automl_prune.architecture.values import Value, compact


@rule(
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish", "sigmoid", "tanh"),
    *("hardswish", "hardsigmoid", "softplus"),
    on_weights=True,
    same_shape=True,
)
@rule(
    *("rrelu", "hardshrink", "softshrink", "tanhshrink", "softsign", "logsigmoid", "log_sigmoid", "threshold", "logit"),
    *("exp", "exp2", "expm1", "log", "log1p", "log2", "abs", "neg", "sign", "sqrt", "rsqrt", "square", "reciprocal"),
    *("sin", "cos", "erf", "sinc", "floor", "ceil", "round", "trunc", "frac", "nan_to_num", "positive", "bernoulli"),
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "clone", "contiguous"),
    *("detach", "alias", "lift_fresh", "lift_fresh_copy", "to", "_to_copy"),
    *("type_as", "conj", "resolve_conj", "bitwise_not", "logical_not", "isnan", "isinf", "isfinite"),
    on_weights=True,
)
def _alone(call: Call) -> object:
    """Each entry for itself."""
    value = call.value(next(iter(call.arguments)))
    return [value, value] if isinstance(call.out, tuple) else value


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
@rule("new_zeros", "new_ones", "new_full", "new_empty", "zero", "fill")
def _like(call: Call) -> object:
    """A tensor made to fit another is cut with it; one of other sizes stands for itself."""
    value = call.value("self")
    assert value is not None
    fits = len(value.shape) == len(call.shape) and all(value.shape[d] == call.shape[d] for d in value.varying)
    return Value(value.core, call.shape) if fits else Value.constant(FIXED, call.shape)


@rule("copy")
def _copied_into(call: Call) -> object:
    """What is written over part of a tensor takes the place of the channels there."""
    target, source = call.value("self"), call.value("src")
    if target is None or source is None or target.weight or source.weight:
        return NotImplemented
    return combine(call.graph, "an assignment", target, source).expanded(call.shape)


@rule(
    *("add", "sub", "rsub", "mul", "div", "divide", "true_divide", "floor_divide", "multiply", "subtract", "remainder"),
    *(
        "fmod",
        "pow",
        "float_power",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "atan2",
        "hypot",
        "copysign",
        "logaddexp",
        "xlogy",
    ),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or"),
    *("where", "lerp", "addcmul", "addcdiv", "masked_fill", "clamp", "clip", "clamp_min", "clamp_max", "heaviside"),
    on_weights=True,
)
def _combined(call: Call) -> object:
    """Channels that meet are the same channel."""
    values = [v for name in call.arguments if (v := call.value(name)) is not None]
    return combine_all(call, values)


def combine_all(call: Call, values: Sequence[Value]) -> Value:
    """The value of an operation on several tensors entry by entry."""
    combined = reduce(lambda left, right: combine(call.graph, call.op, left, right), values)
    return combined.expanded(call.shape)


def combine(graph: Graph, op: str, left: Value, right: Value) -> Value:
    """The value of an operation on two tensors entry by entry, with broadcasting."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    left, right = aligned(left, len(shape)), aligned(right, len(shape))
    if left.weight and right.weight:
        left, right = own_channels(graph, left), own_channels(graph, right)
    for mine, other in ((left, right), (right, left)):
        if mine.weight:
            return _with_weight(graph, op, mine, other, shape)
    stretched = [
        any(mine.shape[d] == 1 < other.shape[d] and other.varies(d) for d in range(len(shape)))
        for mine, other in ((left, right), (right, left))
    ]
    for mine, flag in zip((left, right), stretched, strict=True):
        if flag:
            graph.freeze(mine, f"broadcast over channels by {op}")
    if all(stretched):
        return graph.solid(shape, op, f"made by {op} of channels on two dimensions")
    if any(stretched):
        varied = right if stretched[0] else left
        other = left if stretched[0] else right
        return varied.expanded(shape) if not _adds_variation(other, varied) else _entangled(graph, op, left, right, shape)
    graph.ids.unite(left.core, right.core, op)
    for mine in (left, right):
        if not mine.varying and (mine.core < 0).all():  # the other is frozen by now
            return Value(mine.core, shape)
    a, b = np.broadcast_arrays(left.core, right.core)
    return Value(compact(np.where(a < 0, b, a)), shape)


def _with_weight(graph: Graph, op: str, weight: Value, other: Value, shape: tuple[int, ...]) -> Value:
    """A parameter combined with an activation is cut along the dimension that follows the channels."""
    grown = [d for d in range(len(shape)) if other.shape[d] == 1 < weight.shape[d] and weight.varies(d)]
    if grown and (other.core >= 0).any():
        graph.freeze(other, f"broadcast over {weight.weight} by {op}")
        return Value(other.core, shape)
    if grown and len(weight.varying) == 1 and (other.core < 0).all():  # a channel's own scale of something without any
        own = own_channels(graph, weight)
        return Value(own.core, shape)
    attach(graph, weight, other)
    return Value(other.core, shape)


def _entangled(graph: Graph, op: str, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
    for value in (left, right):
        graph.freeze(value, f"meets channels on another dimension in {op}")
    return graph.solid(shape, op, f"made by {op} of channels on two dimensions")


def _adds_variation(other: Value, varied: Value) -> bool:
    return any(other.varies(d) and not varied.varies(d) for d in range(len(varied.shape)))


def aligned(value: Value, dims: int) -> Value:
    """A value with leading dimensions of one."""
    missing = dims - len(value.shape)
    return Value(value.core.reshape((1,) * missing + value.core.shape), (1,) * missing + value.shape, value.weight)
