"""From a module to an Architecture: channel ids follow the data through one forward pass.

The module runs once, without weights, on the meta device. A dispatch mode sees every ATen operation on its way: operations
that only move data are executed on the ids themselves, so there is no per-operation index rule that could be wrong;
convolutions and linear layers mint new ids; additions unite them (see :mod:`rules`). An operation without a rule is seen in
its parts where it has any; else it freezes what it touches, with a reason.
"""

import contextlib
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from automl_prune.architecture.following import Follower, followed, graph_of, lifetimes_of
from automl_prune.architecture.lifetimes import Lifetimes
from automl_prune.architecture.model import Architecture, Product
from automl_prune.architecture.rules import Graph
from automl_prune.cloning import clone
from automl_prune.errors import TraceError
from automl_prune.messages import first_line, said
from automl_prune.steady import steady


def trace(model: nn.Module, example_input: Tensor) -> Architecture:
    """Describe a network's coupled channels.

    The module is not touched: a weightless copy on the meta device is run in evaluation mode, and in training mode where
    that uses further parameters. A module of anybody's own is run for real first, so that what its code keeps for later (a
    cached mask, say) is made of real tensors.

    Args:
        model: Any module that is called with one tensor.
        example_input: A batch ``[n, channels, …]``; only its shape and dtype matter, unless the program branches on its
            values.

    Raises:
        TraceError: The module fails its own forward pass, or has no tensor in its result.
    """
    _check(model, example_input)
    if not _well_known(model):
        _try(model, example_input)
    for samples in sorted({1, len(example_input)}):  # one is enough, unless the program names the size of its batch
        with contextlib.suppress(Exception), torch.device("meta"):
            return _follow_through(weightless(model), example_input[:samples].detach().to("meta"), model)
    try:  # the program reads values, or makes tensors elsewhere: it needs its weights
        with steady(example_input.device):
            return _follow_through(*_real(model, example_input), model)
    except Exception as error:
        _try(model, example_input)
        raise TraceError(
            f"{type(model).__name__} runs with an input of shape {list(example_input.shape)}, but cannot be traced: "
            f"{said(error)}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Stumble:
    """Where a forward pass failed: the operation, what it said, and the layers that put out what it was given."""

    op: str
    error: str
    layers: frozenset[str]


def stumble(model: nn.Module, example_input: Tensor) -> Stumble | None:
    """The operation at which a network's forward pass fails on the meta device, or None: it runs, or fails elsewhere.

    Args:
        model: A module on the meta device, as :func:`weightless` makes it.
        example_input: As for :func:`trace`.
    """
    follower = Follower(graph_of(model, model, example_input), Lifetimes(1))
    try:
        with torch.device("meta"):
            followed(follower, model, example_input.detach().to("meta"))
    except Exception as error:
        if follower.failed is not None:
            op, values = follower.failed
            return Stumble(op, first_line(error), follower.graph.producers(values))
    return None


def weightless(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode whose parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return clone(model, memo).eval()


def _follow_through(model: nn.Module, example: Tensor, original: nn.Module) -> Architecture:
    """Run ``model``, a copy of ``original``, on an example and say what was seen."""
    graph = graph_of(model, original, example)
    lifetimes = lifetimes_of(graph, model)
    follower = Follower(graph, lifetimes)
    results = followed(follower, model, example)
    if not results:
        raise TypeError("its forward pass returns no tensor.")
    learned = {name for name, _ in model.named_parameters()}
    if not learned <= follower.used:  # a head for training, say: what it is coupled with must fit it afterwards, too
        training = dataclasses.replace(graph, layers=[], products=[], values={}, _alive={})
        with contextlib.suppress(Exception):
            followed(Follower(training, lifetimes_of(training, model)), model.train(), example)
    lifetimes.keep(results)
    return _described(graph, lifetimes, learned, example)


def _described(graph: Graph, lifetimes: Lifetimes, learned: set[str], example: Tensor) -> Architecture:
    found = graph.ids.collect(graph.shapes, learned)
    described = {t.name for t in found.tensors}
    return Architecture(
        input_shape=tuple(example.shape[1:]),
        input_dtype=str(example.dtype).removeprefix("torch."),
        groups=found.groups,
        layers=tuple(graph.layers),
        tensors=found.tensors,
        uncut=sum(math.prod(graph.shapes[name]) for name in learned - described),
        products=tuple(Product(p.positions, tuple(map(found.runs, p.axes))) for p in graph.products),
        activations=lifetimes.activations(found),
    )


def _check(model: object, example_input: object) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(f"A torch.nn.Module is traced; this is a {type(model).__name__}.")
    if any(nn.parameter.is_lazy(p) for p in (*model.parameters(), *model.buffers())):
        raise TraceError(f"{type(model).__name__} has lazy parameters, whose sizes are not known yet; run it once first.")
    if not isinstance(example_input, Tensor) or not example_input.dim() or not example_input.numel():
        came = f"shape {list(example_input.shape)}" if isinstance(example_input, Tensor) else type(example_input).__name__
        raise TraceError(f"The example input is a tensor [n, channels, …] with at least one entry; this is {came}.")


def _well_known(model: nn.Module) -> bool:
    """Whether all the code that a forward pass runs is torch's or torchvision's, which keep no tensors for later."""
    return all(type(m).__module__.partition(".")[0] in ("torch", "torchvision") for m in model.modules())


def _real(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in evaluation mode with its weights, and the example where these are."""
    copied = clone(model).eval().requires_grad_(False)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), example_input.device)
    return copied, example_input.detach().to(device).clone()


def _try(model: nn.Module, example_input: Tensor) -> None:
    """Run a copy once; raises TraceError where it fails."""
    try:
        copied, example = _real(model, example_input)
        with steady(example.device), torch.no_grad():
            copied(example)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} fails its own forward pass with an input of shape {list(example_input.shape)}, "
            f"{str(example_input.dtype).removeprefix('torch.')}: {said(error)} It must accept one tensor like this."
        ) from error
