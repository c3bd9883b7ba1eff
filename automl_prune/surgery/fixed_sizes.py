"""Sizes that a program names as numbers: found by running the cut network without its weights, before any arithmetic.

``x.reshape(n, 3, heads, 64)`` may be written from the tensor's own sizes or not; only the smaller network can tell. It runs
on the meta device in a fraction of the time of a real forward pass, and the operation that fails names the groups at fault.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import Stumble, stumble, weightless
from automl_prune.cloning import clone
from automl_prune.surgery.slicing import materialise


def fixed_sizes(model: nn.Module, architecture: Architecture, example_input: Tensor) -> dict[str, str]:
    """Reasons by name of the groups whose cut makes an operation fail; what fails otherwise is left to the arithmetic."""
    light = weightless(model)
    example = _example(light, example_input)
    if example is None:
        return {}
    groups = {g.name: range(g.units // 2) for g in architecture.free_groups if g.units > 1}

    def without(names: Iterable[str]) -> Stumble | None:
        try:
            small = materialise(light, architecture, {name: groups[name] for name in names})
        except Exception:  # the description is wrong; the arithmetic says how
            return None
        return stumble(small, example)

    reasons: dict[str, str] = {}
    while found := without(groups.keys() - reasons.keys()):
        suspects = [n for n in groups if n not in reasons and found.layers.intersection(architecture.producers[n])]
        if not suspects:
            break
        reasons |= _blame({n: without([n]) for n in suspects} if len(suspects) > 1 else {}, suspects, found)
    return reasons


def _example(light: nn.Module, example_input: Tensor) -> Tensor | None:
    """One sample, or all of them where the program names the size of its batch; None if neither runs without weights."""
    for samples in sorted({1, len(example_input)}):
        try:
            with torch.device("meta"), torch.inference_mode():
                clone(light)(example_input[:samples].detach().to("meta"))
        except Exception:  # tensors made elsewhere, values that are read
            continue
        return example_input[:samples]
    return None


def _blame(alone: Mapping[str, Stumble | None], suspects: Iterable[str], together: Stumble) -> dict[str, str]:
    """Reasons of those suspects that fail alone; of all where none does."""
    guilty = {name: _said(found) for name, found in alone.items() if found is not None}
    return guilty or dict.fromkeys(suspects, _said(together))


def _said(found: Stumble) -> str:
    return f"the program names its size: {found.op} of the smaller network says: {found.error}"
