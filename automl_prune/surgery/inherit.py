"""Which weights a candidate inherits from the full network, and which start afresh."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import Units
from automl_prune.surgery.slicing import materialise

Scope = Literal["all", "convolutions", "nothing"]


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
            whose inputs are whole: not biases of convolutions, not normalisation); ``nothing`` starts from scratch.
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
            _refresh(module, full[name], scope)
    return small


def _refresh(module: nn.Module, original: nn.Module, scope: Scope) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        return
    if scope == "convolutions" and isinstance(module, nn.Linear) and isinstance(original, nn.Linear):
        if module.in_features == original.in_features:
            return
    elif scope == "convolutions" and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        weight = module.weight.detach().clone()
        reset()
        with torch.no_grad():
            module.weight.copy_(weight)
        return
    reset()
