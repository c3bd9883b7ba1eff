"""The package as functions, for a user's own module; no service, no registered names."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.cloning import clone
from automl_prune.costs import CostModel
from automl_prune.errors import TraceError, UnknownNameError, UserError, WidthError
from automl_prune.messages import said
from automl_prune.steady import steady
from automl_prune.surgery.criteria import CRITERIA, Criterion, Reduction
from automl_prune.surgery.slicing import Ranking, materialise
from automl_prune.surgery.verify import check_weights, difference


def prune(
    model: nn.Module,
    example_input: Tensor,
    channels: Mapping[str, int],
    criterion: str = "l1",
    *,
    reduction: Reduction = "mean",
    seed: int = 0,
) -> nn.Module:
    """A new, smaller module; the given one is not touched.

    The very cut that is returned is checked first: it must equal zeroing the same channels.

    Args:
        model: Any module whose forward pass takes one tensor.
        example_input: A batch ``[n, channels, …]`` of the type that the module takes.
        channels: Channels to keep, by group name or by layer name; what is not named stays whole.
        criterion: Which channels are kept: a registered criterion's name.
        reduction: How scores of coupled layers combine: mean, sum, max or first.
        seed: For the random criterion.

    Raises:
        TraceError: The module fails its own forward pass or cannot be traced, or the cut would not be exact.
        UnknownNameError: No such group, layer, criterion or reduction.
        WidthError: A width that its group cannot take.
        UserError: An argument is of another type.
    """
    chosen = _criterion(criterion, reduction, seed)
    _check_channels(channels)
    checked_output(model, example_input)
    architecture = trace(model, example_input)
    ranking = Ranking(model, architecture, chosen, reduction=reduction)
    kept = ranking.keep(channels, seed=seed)
    if reason := difference(model, architecture, kept, example_input):
        raise TraceError(f"{type(model).__name__} cannot be cut to {dict(channels)}: {reason}.")
    return materialise(model, architecture, kept)


def cost(architecture: Architecture, widths: Mapping[str, int] | None = None) -> dict[str, float]:
    """Costs of a network from its widths: ``macs``, ``flops``, ``params``, ``memory_mb`` and ``activation_mb``.

    Args:
        architecture: A traced network.
        widths: Channels by group or layer name; what is not named stays whole.

    Raises:
        UnknownNameError: No such group or layer.
        WidthError: A width that its group cannot take.
    """
    _check_channels(widths or {})
    return CostModel(architecture).one(architecture.resolve(widths or {}))


def checked_output(model: nn.Module, example_input: Tensor) -> Any:
    """What a module gives for a batch, in evaluation mode; computed by a copy.

    Raises:
        TraceError: It has no weights or cannot be copied, or its forward pass raises.
        UserError: One of the two is something else.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"The model is {_article(model)}; pass a torch.nn.Module.")
    if not isinstance(example_input, Tensor):
        raise UserError(f"The example input is {_article(example_input)}; pass one tensor, a batch [n, channels, …].")
    came = f"{str(example_input.dtype).removeprefix('torch.')} {list(example_input.shape)}"
    if example_input.dim() < 2 or not example_input.numel():
        raise UserError(f"The example input is {came}; pass a batch [n, channels, …] of at least one sample.")
    check_weights(model)
    tried = copied(model).eval()
    try:
        with steady(example_input.device), torch.no_grad():
            return tried(example_input.detach().clone())
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} fails its own forward pass on the example input, {came}: {said(error)} Pass an "
            f"input of the shape, type and device that model(example_input) takes."
        ) from error


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing; raises TraceError where there can be none."""
    try:
        return clone(model)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied with copy.deepcopy: {said(error)}") from error


def _criterion(name: str, reduction: str, seed: int) -> Criterion:
    if not isinstance(name, str):
        raise UserError(f"The criterion is {_article(name)}; pass the name of one: {', '.join(CRITERIA)}.")
    if reduction not in get_args(Reduction):
        raise UnknownNameError("reduction", str(reduction), get_args(Reduction))
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"The seed is {seed!r}; pass a whole number from 0.")
    return CRITERIA.get(name)


def _check_channels(channels: Mapping[str, int]) -> None:
    """Raise WidthError or UserError unless this maps names to whole numbers; which ones they may be is seen later."""
    if not isinstance(channels, Mapping):
        raise UserError(f"The channels are {_article(channels)}; pass a mapping of group or layer names to widths.")
    for name, width in channels.items():
        if not isinstance(name, str):
            raise UserError(f"A key of the channels is {_article(name)}; pass names of groups or layers.")
        if isinstance(width, bool | np.bool_) or not isinstance(width, int | np.integer):
            raise WidthError(
                f"{name!r} cannot be {width!r} wide: that is {_article(width)}; pass a whole number of channels."
            )


def _article(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
