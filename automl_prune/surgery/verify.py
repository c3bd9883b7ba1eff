"""Trust after proof: every group of a traced network is cut numerically before it may be searched.

Cutting a group must equal zeroing the same channels wherever they occur: in the weights that put them out, in the
per-channel tensors and in the weights that take them in. Each group is tried alone, then all together; what fails, or makes
the forward pass raise, is frozen with its reason.
"""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import Units, expand
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.errors import TraceError
from automl_prune.surgery.slicing import materialise

IntArray = npt.NDArray[np.int64]
TOLERANCE = 1e-4
"""Largest accepted difference of outputs, relative to their largest magnitude (float32)."""


def admit(model: nn.Module, example_input: Tensor, *, seed: int = 0) -> Architecture:
    """Trace a network and verify every group; groups that cannot be cut exactly come back frozen.

    Raises:
        TraceError: As :func:`~automl_prune.architecture.tracing.trace`, or costs do not follow from widths.
    """
    return _with_checked_costs(model, verify(model, trace(model, example_input), example_input, seed=seed), seed)


def verify(model: nn.Module, architecture: Architecture, example_input: Tensor, *, seed: int = 0) -> Architecture:
    """The architecture with every group frozen that does not cut exactly on ``example_input`` ``[n, channels, …]``."""
    rng = np.random.default_rng(seed)
    probe = _randomised(model, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(example_input.shape, generator=generator).to(example_input)
    reasons: dict[str, str] = {}
    for group in architecture.free_groups:
        if reason := _difference(probe, architecture, {group.name: _half(rng, group.units)}, inputs):
            reasons[group.name] = reason
    architecture = freeze(architecture, reasons)
    together = {g.name: _half(rng, g.units) for g in architecture.free_groups}
    narrowest = {g.name: np.zeros(1, dtype=np.int64) for g in architecture.free_groups}
    reason = _difference(probe, architecture, together, inputs) or _difference(probe, architecture, narrowest, inputs)
    if reason:
        architecture = freeze(
            architecture, {g.name: f"exact alone, but not together: {reason}" for g in architecture.free_groups}
        )
    return architecture


def freeze(architecture: Architecture, reasons: Mapping[str, str]) -> Architecture:
    """The architecture with these groups frozen."""
    groups = tuple(dataclasses.replace(g, frozen=reasons[g.name]) if g.name in reasons else g for g in architecture.groups)
    return dataclasses.replace(architecture, groups=groups)


def masked(model: nn.Module, architecture: Architecture, kept: Mapping[str, Units]) -> nn.Module:
    """A full-size copy in which every channel that ``kept`` leaves out is zeroed wherever it occurs."""
    keep = architecture.keep(kept)
    copied = copy.deepcopy(model)
    tensors = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    with torch.no_grad():
        for spec in architecture.tensors:
            for axis in spec.axes:
                stays = torch.from_numpy(keep[architecture.axis_ids[spec.name, axis.dim]])
                nothing = 0 if spec.indexes is None else len(expand(spec.indexes)) - 1
                tensors[spec.name].movedim(axis.dim, 0)[~stays] = nothing
    return copied


def difference(
    model: nn.Module, architecture: Architecture, kept: Mapping[str, Units], inputs: Tensor, *, seed: int = 0
) -> str | None:
    """Why cutting a network would not equal zeroing the same channels, or None; the network is not touched.

    Of ``inputs`` only the shape and the type matter: zeros would hide a wrong index.
    """
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed)).to(inputs)
    return _difference(_randomised(model, seed), architecture, kept, noise)


def _difference(model: nn.Module, architecture: Architecture, kept: Mapping[str, Units], inputs: Tensor) -> str | None:
    """Why cutting is not zeroing, or None."""
    try:
        with torch.inference_mode():
            small = _outputs(materialise(model, architecture, kept)(inputs))
            large = _outputs(masked(model, architecture, kept)(inputs))
    except Exception as error:
        return (
            f"the smaller network does not run: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    for cut, full in zip(small, large, strict=True):
        if cut.shape != full.shape:
            return f"the output changes its shape from {list(full.shape)} to {list(cut.shape)}"
        scale = float(full.abs().max())
        error_ = float((cut - full).abs().max())
        if not error_ <= TOLERANCE * max(scale, 1e-6):
            return f"cutting differs from zeroing by {error_ / max(scale, 1e-6):.1e} of the output"
    return None


def _with_checked_costs(model: nn.Module, architecture: Architecture, seed: int) -> Architecture:
    """Compare the closed-form MACs with torch's own counter, for the full network and for one that was cut.

    What the counter finds beyond the layers (attention) is kept as a constant; it must not change with the widths.
    """
    rng = np.random.default_rng(seed)
    fixed = counted_macs(model, architecture.input_shape) - int(CostModel(architecture).one()["macs"])
    architecture = dataclasses.replace(architecture, fixed_macs=fixed)
    kept = {g.name: _half(rng, g.units) for g in architecture.free_groups}
    widths = {name: len(units) * architecture.group(name).divisor for name, units in kept.items()}
    claimed = CostModel(architecture).one(widths)["macs"]
    counted = counted_macs(materialise(model, architecture, kept), architecture.input_shape)
    if claimed != counted or fixed < 0:
        raise TraceError(
            f"The costs of {type(model).__name__} do not follow from its widths: {claimed:,.0f} MACs by its layers, "
            f"{counted:,} by torch's counter. It uses weighted operations other than layers."
        )
    return architecture


def _outputs(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [t for item in result.values() for t in _outputs(item)]
    return [t for item in result for t in _outputs(item)] if isinstance(result, list | tuple) else []


def _half(rng: np.random.Generator, units: int) -> IntArray:
    """About half of the units, at least one kept and, where there are two, at least one cut."""
    return np.sort(rng.choice(units, size=max(1, units // 2), replace=False))


def _randomised(model: nn.Module, seed: int) -> nn.Module:
    """A copy in evaluation mode whose normalisation layers have statistics that would show a wrong index."""
    copied = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                shape = module.running_mean.shape
                module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))  # type: ignore[union-attr]
                if module.affine:
                    module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                    module.bias.copy_(0.1 * torch.randn(shape, generator=generator))
    return copied
