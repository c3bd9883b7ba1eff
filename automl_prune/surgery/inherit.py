"""Which weights a candidate inherits from the full network, and which start afresh."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import Units
from automl_prune.surgery.slicing import materialise

Scope = Literal["all", "convolutions"]


def inherit(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[str, Units],
    *,
    scope: Scope = "all",
    seed: int | None = None,
) -> nn.Module:
    """The smaller module, with weights inherited as ``scope`` says.

    Args:
        model: The full network.
        architecture: Its description.
        kept: Kept units by group name.
        scope: ``all`` weights and statistics; ``convolutions`` as ABCPruner does (convolution weights, and linear layers
            whose inputs are whole: not biases of convolutions, not normalisation).
        seed: For what starts afresh; None uses torch's own generator.
    """
    small = materialise(model, architecture, kept)
    if scope == "all":
        return small
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        full = dict(model.named_modules())
        for name, module in small.named_modules():
            _refresh(module, full[name])
    return small


def from_scratch(fresh: nn.Module, architecture: Architecture, kept: Mapping[str, Units]) -> nn.Module:
    """The smaller module of a newly initialised one, its weights rescaled to their new fan-in (He et al. 2015)."""
    small = materialise(fresh, architecture, kept)
    full = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, weight in small.named_parameters():
            if weight.dim() > 1:
                weight.mul_(math.sqrt(full[name][0].numel() / weight[0].numel()))
    return small


def _refresh(module: nn.Module, original: nn.Module) -> None:
    """Initialise again what ABCPruner does not inherit."""
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        return
    if isinstance(module, nn.Linear) and isinstance(original, nn.Linear):
        if module.in_features == original.in_features:
            return
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        weight = module.weight.detach().clone()
        reset()
        with torch.no_grad():
            module.weight.copy_(weight)
        return
    reset()
