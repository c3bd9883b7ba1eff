"""Layers with weights: they take in the channels along one axis and put out new ones."""

import math

import numpy as np
import numpy.typing as npt

from automl_prune.architecture.channel_ids import FIXED
from automl_prune.architecture.model import Layer
from automl_prune.architecture.rules.base import Call, Graph, layer_of, rule, shape_of
from automl_prune.architecture.values import Value

IntArray = npt.NDArray[np.int64]


@rule(
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", on_weights=True
)
def _convolution(call: Call) -> object:
    """A convolution, plain, grouped, depthwise or transposed."""
    value, weight = call.value("input"), call.weight("weight")
    if value is None or weight is None:
        return computed(call)
    spatial = len(call["weight"].shape) - 2
    dim = len(call.shape) - spatial - 1
    inputs = _taken_in(call, value, dim, weight)
    groups = int(call["groups"])
    transposed = "transpose" in call.op or bool(call.arguments.get("transposed"))
    out = _put_out(call.graph, weight, inputs, call.shape[dim], groups, transposed=transposed)
    single = groups > 1 and len(inputs) == groups
    counted = value.shape if transposed else call.shape
    positions = math.prod(counted) // (call.graph.batch * counted[dim])
    stride, dilation = (s if len(s) == spatial else s * spatial for s in map(shape_of, (call["stride"], call["dilation"])))
    layer = Layer(
        layer_of(weight), "depthwise" if single else "conv", weight, positions,
        size=tuple(value.shape[dim + 1 :]), stride=stride, dilation=dilation, groups=0 if transposed else groups,
    )  # fmt: skip
    return _finish(call, layer, out, dim)


@rule("linear", on_weights=True)
def _linear(call: Call) -> object:
    """A linear layer, on the last dimension."""
    value, found = call.value("input"), matrix(call, "weight")
    if value is None or found is None:
        return computed(call)
    weight, turned = found
    return applied(call, value, weight, call["weight"].shape[0], transposed=turned)


def matrix(call: Call, argument: str) -> tuple[str, bool] | None:
    """The matrix parameter that an argument is, and whether it is its transpose."""
    weight = call.weight(argument)
    if weight is not None:
        return (weight, False) if len(call[argument].shape) == 2 else None
    derived = call.graph.values.get(id(call.arguments.get(argument)))
    turned = call.graph.transposed(derived) if derived is not None else None
    return None if turned is None else (turned, True)


def applied(call: Call, value: Value, weight: str, width: int, *, transposed: bool) -> Value:
    """What a matrix parameter, ``[out, in]`` or transposed ``[in, out]``, makes of the last dimension."""
    inputs = _taken_in(call, value, -1, weight)
    out = _put_out(call.graph, weight, inputs, width, 1, transposed=transposed)
    positions = math.prod(call.shape) // (call.graph.batch * width)
    return _finish(call, Layer(layer_of(weight), "linear", weight, positions), out, len(call.shape) - 1)


@rule("embedding", on_weights=True)
def _embedding(call: Call) -> object:
    """A table look-up puts out the table's columns."""
    weight = call.weight("weight")
    if weight is None:
        return NotImplemented
    layer = layer_of(weight)
    out = call.graph.ids.attach(weight, 1, "out", layer, call.graph.ids.mint(call.shape[-1]))
    call.graph.layers.append(Layer(layer, "embedding", weight, 0))
    return Value.along(out, call.shape, len(call.shape) - 1)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(call: Call) -> object:
    """What the first layer takes in can be cut; hidden sizes are fixed by the module."""
    value = call.value("input")
    names = [call.graph.names.get(id(t)) for t in call.arguments.get("params", ())]
    if value is None or None in names or not names:
        return NotImplemented
    firsts = [str(n) for n in names if n and "weight_ih_l0" in n]
    for weight in firsts:
        inputs = _taken_in(call, value, -1, weight)
        call.graph.ids.attach(weight, 1, "in", layer_of(weight), inputs)
        positions = math.prod(value.shape) // (call.graph.batch * value.shape[-1])
        call.graph.layers.append(Layer(layer_of(weight), "recurrent", weight, positions))
    reason = f"hidden size of {layer_of(firsts[0])}"
    return [call.graph.solid(tuple(t.shape), layer_of(firsts[0]), reason) for t in call.out]


def computed(call: Call) -> object:
    """A layer whose weight is no parameter: neither what it takes in nor what it puts out can be cut."""
    reason = f"goes through {call.op} with a computed weight (a parametrization such as weight_norm can be removed)"
    call.graph.freeze(call.value("input"), reason)
    return call.graph.solid(call.shape, call.op, f"put out by {call.op} with a computed weight")


def _taken_in(call: Call, value: Value, dim: int, weight: str) -> IntArray:
    """Ids along the dimension that a weight consumes, ``[inputs]``."""
    if weight in call.graph.rigid:
        call.graph.freeze(value, call.graph.rigid[weight])
    inputs = np.full(value.shape[dim], FIXED) if value.weight else value.vector(dim)
    if inputs is not None:
        return inputs
    call.graph.freeze(value, f"taken in by {weight} in an order that cannot be followed")
    solid = call.graph.ids.solid("unordered", f"taken in by {weight} in an order that cannot be followed")
    return np.full(value.shape[dim], solid, dtype=np.int64)


def _put_out(graph: Graph, weight: str, inputs: IntArray, channels: int, groups: int, *, transposed: bool) -> IntArray:
    """Attach a weight to its input ids; returns its output ids, ``[channels]``.

    Weights are ``[channels, inputs / groups, …]``, transposed ones ``[inputs, channels / groups, …]``. Grouped weights keep
    their number of groups, so all groups lose the same positions; in a depthwise layer each input channel is a group of its
    own and goes together with its outputs.
    """
    ids, layer = graph.ids, layer_of(weight)
    per_group, width = channels // groups, len(inputs) // groups
    if groups > 1 and width == 1:
        outputs = np.repeat(inputs, per_group)
        if not transposed:
            return ids.attach(weight, 0, "out", layer, outputs)
        ids.attach(weight, 0, "out", layer, inputs)
        return outputs
    for g in range(1, groups):
        ids.unite(inputs[:width], inputs[g * width : (g + 1) * width], f"the groups of {layer}")
    if transposed:
        ids.attach(weight, 0, "in", layer, np.tile(inputs[:width], groups))
        return np.tile(ids.attach(weight, 1, "out", layer, _minted(graph, weight, per_group)), groups)
    ids.attach(weight, 1, "in", layer, inputs[:width])
    return ids.attach(weight, 0, "out", layer, np.tile(_minted(graph, weight, per_group), groups))


def _minted(graph: Graph, weight: str, size: int) -> IntArray:
    ids = graph.ids.mint(size)
    if weight in graph.rigid:
        graph.ids.freeze(ids, graph.rigid[weight])
    return ids


def _finish(call: Call, layer: Layer, out: IntArray, dim: int) -> Value:
    bias = call.weight("bias")
    if bias is not None:
        call.graph.ids.attach(bias, 0, "scale", layer.name, out)
    elif call.arguments.get("bias") is not None:
        call.graph.ids.freeze(out, f"the bias of {layer.name} is computed")
    call.graph.layers.append(layer)
    return Value.along(out, call.shape, dim)
