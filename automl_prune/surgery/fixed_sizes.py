"""Sizes that a program names as numbers: found by running the cut network without its weights, before any arithmetic.

``x.reshape(n, 3, heads, 64)`` may be written from the tensor's own sizes or not; only the smaller network can tell. It runs
on the meta device in a fraction of the time of a real forward pass, and the operation that fails names the groups at fault.
"""

from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import Stumble, stumble, weightless
from automl_prune.surgery.slicing import materialise


def fixed_sizes(model: nn.Module, architecture: Architecture, example_input: Tensor) -> dict[str, str]:
    """Reasons by name of the groups whose cut makes an operation fail; what fails otherwise is left to the arithmetic."""
    light = weightless(model)
    reasons: dict[str, str] = {}
    while free := [g for g in architecture.free_groups if g.name not in reasons]:
        small = materialise(light, architecture, {g.name: range(g.units // 2) for g in free})
        found = stumble(small, example_input[:1])
        at_fault = [g.name for g in free if found and found.layers.intersection(architecture.producers[g.name])]
        if found is None or not at_fault:
            break
        reasons |= dict.fromkeys(at_fault, _said(found))
    return reasons


def _said(found: Stumble) -> str:
    return f"the program names its size: {found.op} of the smaller network says: {found.error}"
