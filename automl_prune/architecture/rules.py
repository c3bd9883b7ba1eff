"""What each ATen operation does to channel ids.

An id tensor has the shape of the activation it describes; it is mostly a vector along the channel axis, expanded with
stride 0, so large activations cost nothing. None stands for values without channels (constants, scalars).
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from automl_prune.architecture.channel_ids import ZERO, ChannelIds
from automl_prune.architecture.model import Layer

IntArray = npt.NDArray[np.int64]
Rule = Callable[["Graph", Node], Any]

RULES: dict[str, Rule] = {}


@dataclass
class Graph:
    """The state of a tracing run: id tensors by node, tensor names by placeholder, and the layers met."""

    ids: ChannelIds
    batch: int
    values: dict[Node, Any]
    tensors: dict[Node, str]
    constants: dict[Node, Tensor]
    layers: list[Layer] = field(default_factory=list)

    def value(self, argument: Any) -> Any:
        """The id tensor of a node; None for anything else."""
        return self.values.get(argument) if isinstance(argument, Node) else None

    def tensor_name(self, argument: Any) -> str | None:
        """The name of the parameter or buffer that an argument is, if it is one."""
        return self.tensors.get(argument) if isinstance(argument, Node) else None

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze every id in a value (an id tensor, or a sequence of them)."""
        if isinstance(value, Tensor):
            self.ids.freeze(_distinct(value), reason)
        elif isinstance(value, tuple | list):
            for item in value:
                self.freeze(item, reason)


def apply_rule(graph: Graph, node: Node) -> Any:
    """The value of a call: by its rule, or opaque (inputs frozen, outputs fixed) where there is none or it declines."""
    name = operation(node)
    rule = RULES.get(name)
    result = rule(graph, node) if rule else NotImplemented
    return _opaque(graph, node, f"used by {name}, which cannot be cut through") if result is NotImplemented else result


def operation(node: Node) -> str:
    """An operation's plain name: ``relu`` for ``aten.relu_.default``."""
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def vector_along(ids: IntArray, shape: Sequence[int], dim: int) -> Tensor:
    """An id tensor of ``shape`` whose entries vary along ``dim`` only."""
    view = [1] * len(shape)
    view[dim] = len(ids)
    return torch.from_numpy(np.ascontiguousarray(ids)).view(view).expand(tuple(shape))


def along(value: Tensor, dim: int) -> IntArray | None:
    """The ids along ``dim``, ``[size]``, or None when they also vary along another dimension."""
    others = [d for d in range(value.dim()) if d != dim % value.dim()]
    vector = value
    for d in others:
        vector = vector.narrow(d, 0, 1)
    if not all(value.stride(d) == 0 or value.shape[d] == 1 for d in others) and not torch.equal(
        vector.expand_as(value), value
    ):
        return None
    return vector.reshape(-1).numpy().copy()


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by plain name."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


@rule(
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish", "sigmoid", "tanh"),
    *("hardswish", "hardsigmoid", "softplus", "dropout", "feature_dropout", "clone", "contiguous", "detach", "alias"),
    *("neg", "exp", "abs", "sqrt", "rsqrt", "square", "clamp", "clamp_min", "pow", "to", "_to_copy", "lift_fresh_copy"),
)
def _pass_through(graph: Graph, node: Node) -> Any:
    value = graph.value(node.args[0])
    if value is None and any(graph.values.get(n) is not None for n in node.all_input_nodes):
        return NotImplemented  # the channels are in another argument, as in 2 ** x
    return value


@rule("add", "sub", "mul", "div", "maximum", "minimum")
def _combine(graph: Graph, node: Node) -> Any:
    """Channels that are combined entry by entry are the same channel."""
    left, right = (graph.value(a) for a in node.args[:2])
    if any(graph.tensor_name(a) for a in node.args[:2]):
        return NotImplemented
    shape = _shape(node)
    if left is None or right is None:
        present = left if right is None else right
        return None if present is None else present.expand(shape)
    left, right = left.expand(shape), right.expand(shape)
    for d in range(len(shape)):
        if left.stride(d) == 0 and right.stride(d) == 0:
            left, right = left.narrow(d, 0, 1), right.narrow(d, 0, 1)
    graph.ids.unite(left.numpy(), right.numpy())
    return torch.where(left == ZERO, right, left).expand(shape)


@rule("conv1d", "conv2d", "conv3d", "linear")
def _weighted(graph: Graph, node: Node) -> Any:
    """Convolutions and linear layers consume the ids along their channel axis and mint new ones."""
    value, weight = graph.value(node.args[0]), graph.tensor_name(node.args[1])
    if value is None or weight is None:
        return NotImplemented
    dim = -1 if operation(node) == "linear" else 1
    inputs = along(value, dim)
    if inputs is None:
        graph.freeze(value, f"taken in by {weight} in an order that cannot be followed")
        inputs = _frozen_ids(graph, value.shape[dim], f"taken in by {weight}")
    shape, kernel = _shape(node), node.args[1].meta["val"].shape  # type: ignore[union-attr]
    channels = shape[dim]
    groups = len(inputs) // kernel[1]
    layer = weight.rpartition(".")[0]
    outputs = _connect(graph, weight, layer, inputs, channels, groups)
    bias = graph.tensor_name(node.args[2]) if len(node.args) > 2 else None
    if bias is not None:
        graph.ids.attach(bias, 0, "scale", layer, outputs)
    kind = "linear" if dim == -1 else "depthwise" if kernel[1] == 1 < groups else "conv"
    positions = int(np.prod(shape)) // (graph.batch * channels)
    graph.layers.append(Layer(layer, kind, weight, positions))
    return vector_along(outputs, shape, dim % len(shape))


def _connect(graph: Graph, weight: str, layer: str, inputs: IntArray, channels: int, groups: int) -> IntArray:
    """Attach a weight ``[channels, inputs / groups, …]`` to its input ids; returns its output ids, ``[channels]``.

    Grouped weights keep their number of groups, so all groups lose the same positions; in a depthwise layer each input
    channel is a group of its own and goes together with its outputs.
    """
    per_group, width = channels // groups, len(inputs) // groups
    if groups > 1 and width == 1:
        return graph.ids.attach(weight, 0, "out", layer, np.repeat(inputs, per_group))
    for g in range(1, groups):
        graph.ids.unite(inputs[:width], inputs[g * width : (g + 1) * width])
    graph.ids.attach(weight, 1, "in", layer, inputs[:width])
    return graph.ids.attach(weight, 0, "out", layer, np.tile(graph.ids.mint(per_group), groups))


@rule("batch_norm", "instance_norm")
def _per_channel(graph: Graph, node: Node) -> Any:
    """Normalisation with per-channel parameters: they are cut with the channels."""
    value = graph.value(node.args[0])
    channels = along(value, 1) if value is not None else None
    if channels is None:
        return NotImplemented
    for argument in node.args[1:5]:
        name = graph.tensor_name(argument)
        if name is not None:
            graph.ids.attach(name, 0, "scale", name.rpartition(".")[0], channels)
    return value


@rule(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d"),
    *("upsample_nearest2d", "upsample_bilinear2d"),
)
def _spatial(graph: Graph, node: Node) -> Any:
    """Pooling and resizing work on each channel alone."""
    value = graph.value(node.args[0])
    channels = along(value, 1) if value is not None else None
    if channels is None or not isinstance(node.meta["val"], Tensor):
        return NotImplemented
    return vector_along(channels, _shape(node), 1)


@rule("mean", "sum", "amax", "amin")
def _reduce(graph: Graph, node: Node) -> Any:
    """Reducing over positions keeps the channels; reducing over channels cannot be cut through."""
    value = graph.value(node.args[0])
    if value is None or len(node.args) < 2 or not isinstance(node.args[1], list | tuple):
        return NotImplemented
    dims = [int(d) % value.dim() for d in node.args[1]]  # type: ignore[arg-type]
    kept = value
    for d in dims:
        kept = kept.narrow(d, 0, 1)
    if not torch.equal(kept.expand_as(value), value):
        return NotImplemented
    return kept.reshape(_shape(node)) if kept.dim() != len(_shape(node)) else kept


@rule(
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "unsqueeze"),
    *("squeeze", "slice", "select", "narrow", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "unbind"),
    *("expand", "expand_as", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "roll", "flip", "getitem"),
    *("movedim", "swapaxes"),
)
def _move(graph: Graph, node: Node) -> Any:
    """Data movement is executed on the id tensors themselves."""
    args = torch.fx.node.map_arg(node.args, lambda n: graph.values.get(n))
    flat = [v for a in args for v in (a if isinstance(a, list | tuple) else [a])]
    if any(n in graph.tensors for n in node.all_input_nodes):
        return NotImplemented
    if not any(isinstance(v, Tensor) for v in flat):
        return None if all(graph.values.get(n) is None for n in node.all_input_nodes) else NotImplemented
    if any(graph.values.get(n) is None for n in node.all_input_nodes):
        return NotImplemented
    return _functional(node)(*args, **node.kwargs)


@rule("constant_pad_nd", "pad")
def _pad(graph: Graph, node: Node) -> Any:
    """Zero padding adds channels that are always zero, or positions that look like their neighbours."""
    value = graph.value(node.args[0])
    widths = [int(w) for w in node.args[1]]  # type: ignore[union-attr, arg-type]
    constant = node.args[-1] if len(node.args) > 2 and isinstance(node.args[-1], int | float) else 0
    if (
        value is None
        or constant != 0
        or (len(node.args) > 2 and isinstance(node.args[2], str) and node.args[2] != "constant")
    ):
        return NotImplemented
    if value.dim() < 3 or len(widths) // 2 > value.dim() - 1:
        return NotImplemented
    channels = along(value, 1)
    if channels is None or any(w < 0 for w in widths):
        return NotImplemented
    before, after = (widths[-2], widths[-1]) if len(widths) // 2 == value.dim() - 1 else (0, 0)
    return vector_along(np.pad(channels, (before, after), constant_values=ZERO), _shape(node), 1)


@rule("index_select", "index")
def _channel_map(graph: Graph, node: Node) -> Any:
    """Choosing channels by an integer buffer: the buffer is cut and renumbered, so both sides are free.

    The input must end with a zero channel, which takes the place of chosen channels that were cut.
    """
    value = graph.value(node.args[0])
    if operation(node) == "index":
        given = list(node.args[1])  # type: ignore[arg-type]
        dims = [d for d, index in enumerate(given) if index is not None]
        index = given[dims[0]] if len(dims) == 1 else None
    else:
        dims, index = [int(node.args[1])], node.args[2]  # type: ignore[arg-type]
    name = graph.tensor_name(index)
    channels = along(value, 1) if value is not None and dims == [1] else None
    if name is None or channels is None or channels[-1] != ZERO or graph.constants.get(index) is None:  # type: ignore[arg-type]
        return NotImplemented
    outputs = graph.ids.attach(name, 0, "map", name.rpartition(".")[0], graph.ids.mint(_shape(node)[1]))
    graph.ids.indexed[name] = channels
    return vector_along(outputs, _shape(node), 1)


def _opaque(graph: Graph, node: Node, reason: str) -> Any:
    """Inputs are frozen; outputs get ids of their own, frozen too."""
    for source in node.all_input_nodes:
        graph.freeze(graph.values.get(source), reason)
    result = node.meta.get("val")
    if isinstance(result, Tensor) and result.dim():
        dim = 1 if result.dim() > 1 else 0
        ids = graph.ids.mint(result.shape[dim])
        graph.ids.freeze(ids, reason.replace("used by", "made by", 1))
        return vector_along(ids, result.shape, dim)
    if isinstance(result, tuple | list):
        return tuple(
            vector_along(_frozen_ids(graph, r.shape[min(1, r.dim() - 1)], reason), r.shape, min(1, r.dim() - 1))
            if isinstance(r, Tensor) and r.dim()
            else None
            for r in result
        )
    return None


def _frozen_ids(graph: Graph, size: int, reason: str) -> IntArray:
    ids = graph.ids.mint(size)
    graph.ids.freeze(ids, reason.replace("used by", "made by", 1))
    return ids


def _functional(node: Node) -> Callable[..., Any]:
    """The operation itself, without its in-place underscore."""
    if node.target is operator.getitem:
        return operator.getitem
    if operation(node) in ("view", "_unsafe_view"):
        return torch.reshape
    return node.target  # type: ignore[return-value]


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(int(s) for s in node.meta["val"].shape)


def _distinct(value: Tensor) -> IntArray:
    for d in range(value.dim()):
        if value.stride(d) == 0:
            value = value.narrow(d, 0, 1)
    return np.unique(value.numpy())
