"""From a module to an Architecture: channel ids are propagated through the graph that ``torch.export`` records.

Each activation carries an integer tensor of its own shape that says which channel every entry is. Operations that only
move data (view, permute, cat, pad …) are executed on that tensor itself, so there is no per-operation index rule that could
be wrong; convolutions and linear layers mint new ids; additions unite them (see :mod:`rules`). An operation that is not
known freezes what it touches, with a reason.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from automl_prune.architecture.channel_ids import ChannelIds
from automl_prune.architecture.model import Architecture
from automl_prune.architecture.rules import Graph, apply_rule, vector_along
from automl_prune.errors import TraceError


def trace(model: nn.Module, example_input: Tensor) -> Architecture:
    """Describe a network's coupled channels.

    The module is not touched: a weightless copy on the meta device is exported in evaluation mode.

    Args:
        model: Any module that ``torch.export`` accepts with one tensor argument.
        example_input: A batch ``[n, channels, …]``; only its shape and dtype matter.

    Raises:
        TraceError: The module fails its own forward pass, or its control flow depends on the data.
    """
    program = _export(model, example_input)
    graph = Graph(ids=ChannelIds(), batch=example_input.shape[0], values={}, tensors={}, constants={})
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    for node in program.graph.nodes:
        _visit(graph, node, program.graph_signature, tensors)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    learned = {name for name, _ in model.named_parameters()}
    groups, cut = graph.ids.collect(shapes, learned)
    described = {t.name for t in cut}
    return Architecture(
        input_shape=tuple(example_input.shape[1:]),
        groups=tuple(groups),
        layers=tuple(graph.layers),
        tensors=tuple(cut),
        uncut=sum(tensors[name].numel() for name in learned - described),
    )


def weightless(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode whose parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _export(model: nn.Module, example_input: Tensor) -> torch.export.ExportedProgram:
    """Export a weightless copy; a module that makes tensors of its own on the CPU needs its weights there too."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.export.export(weightless(model), (example_input.detach().to("meta"),), strict=False)
            except RuntimeError:
                return torch.export.export(copy.deepcopy(model).eval(), (example_input.detach(),), strict=False)
    except Exception as error:
        shape = list(example_input.shape)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TraceError(
            f"{type(model).__name__} could not be traced with an input of shape {shape}: {type(error).__name__}: {first} "
            f"The forward pass must accept one tensor of this shape and must not branch on its values."
        ) from error
    finally:
        logger.setLevel(level)


def _visit(graph: Graph, node: Node, signature: Any, tensors: Mapping[str, Tensor]) -> None:
    if node.op == "placeholder":
        _placeholder(graph, node, signature, tensors)
    elif node.op == "call_function":
        graph.values[node] = apply_rule(graph, node)
    elif node.op == "output":
        for result in node.all_input_nodes:
            graph.freeze(graph.values.get(result), "network output")


def _placeholder(graph: Graph, node: Node, signature: Any, tensors: Mapping[str, Tensor]) -> None:
    spec = next(s for s in signature.input_specs if s.arg.name == node.name)
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
        # A tensor with two names goes by its first, so that both of its uses are cut alike.
        graph.tensors[node] = next(name for name, tensor in tensors.items() if tensor is tensors[spec.target])
        if spec.kind is InputKind.BUFFER and not tensors[spec.target].is_floating_point():
            graph.constants[node] = tensors[spec.target].detach().cpu()
    elif spec.kind is InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor):
        shape = node.meta["val"].shape
        graph.values[node] = vector_along(graph.ids.mint(shape[1]), shape, 1)
        graph.freeze(graph.values[node], "network input")
