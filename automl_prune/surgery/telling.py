"""Weights and inputs that make an experiment tell: where values are constant or tiny, or a signal dies, wrong indexes hide.

Training leaves vectors at zero, one or 1e-6 and may start a whole layer at zero; statistics of a fresh network are those of
no data; and without normalisation, signals fade.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.cloning import clone
from automl_prune.steady import steady

_ENOUGH = 8
"""Values per channel from which its own mean and variance say something."""
_TINY = 1e-3


def telling(
    model: nn.Module, architecture: Architecture, inputs: Tensor, generator: torch.Generator, *, redraw: bool = False
) -> nn.Module:
    """A copy in evaluation mode whose every number matters, in float32 where the inputs are.

    Vectors and constants are drawn anew, statistics and the sizes of layers' outputs fitted to what ``inputs`` make of
    them; whole numbers stay, and so does all other state that a run changes. Nothing requires gradients.

    Args:
        model: Any module; it is not touched.
        architecture: Its description: buffers in it are drawn like parameters.
        inputs: A batch that it takes.
        generator: Where randomness comes from.
        redraw: Draw all weights anew.
    """
    copied = clone(model).eval()
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.detach_()  # TorchScript copies even parameters as computed tensors
    if inputs.dtype == torch.float32:
        copied = copied.float()
    chosen: dict[str, Tensor] = dict(copied.named_parameters())
    chosen |= {n: b for n, b in copied.named_buffers() if n in architecture.tensor or "running_" in n.rpartition(".")[2]}
    with torch.no_grad():
        for name, tensor in chosen.items():
            if tensor.is_floating_point() and tensor.numel() and (redraw or _hides(tensor)):
                tensor.copy_(_drawn(name.rpartition(".")[2], tensor.shape, generator))
        with steady(inputs.device):
            _fit(clone(copied, {id(t): t for t in chosen.values()}), inputs.clone(), generator)
    return copied


def noise(example: Tensor, generator: torch.Generator) -> Tensor:
    """Random input of the example's shape, in float32 at least, with means that tell two of them apart.

    Whole numbers are ids, of which only the example's own are known to be allowed: they are taken as they are.
    """
    if not example.is_floating_point():
        return example
    kind = torch.float32 if example.dtype in (torch.float16, torch.bfloat16) else example.dtype
    means = torch.randn((*example.shape[:2], *(1 for _ in example.shape[2:])), generator=generator)
    return (means + torch.randn(example.shape, generator=generator)).to(example.device, kind)


def _is_vector(shape: torch.Size) -> bool:
    return math.prod(shape) == max(shape, default=1)


def _hides(tensor: Tensor) -> bool:
    """Whether entries could be confused without anybody noticing, or are no numbers."""
    if _is_vector(tensor.shape) or not bool(tensor.isfinite().all()):
        return True
    return bool(tensor.min() == tensor.max()) or float(tensor.abs().max()) < _TINY


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Random values of the size that a tensor's kind needs: shifts small, scales and variances around one."""
    if "bias" in name or "mean" in name or "beta" in name:
        return 0.1 * torch.randn(shape, generator=generator)
    if _is_vector(shape) or "var" in name:
        return 0.5 + torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator).div(math.sqrt(math.prod(shape[1:])))


def _fit(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> None:
    """Run once, and fit each layer to the data when it arrives there; one that is used twice is fitted at its first use."""
    done: set[int] = set()

    @torch.no_grad()
    def statistics(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        mean, var = module._buffers["running_mean"], module._buffers["running_var"]
        if mean is not None and var is not None and id(mean) not in done and arguments and isinstance(arguments[0], Tensor):
            done.add(id(mean))
            _fit_statistics(mean, var, arguments[0], generator)

    def scale(module: nn.Module, _: Any, output: Any) -> Any:
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        if weight is None or id(weight) in done or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        done.add(id(weight))
        size = float(output.detach().float().square().mean().sqrt())
        if not 0 < size < math.inf or 0.5 < size < 2:
            return None
        for parameter in (weight,) if bias is None else (weight, bias):
            parameter.detach().div_(size)
        return output.div(size)

    hooks = []
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks
        weight = module._parameters.get("weight")
        if {"running_mean", "running_var"} <= module._buffers.keys():
            hooks.append(module.register_forward_pre_hook(statistics))
        elif weight is not None and weight.dim() > 1:
            hooks.append(module.register_forward_hook(scale))
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _fit_statistics(mean: Tensor, var: Tensor, data: Tensor, generator: torch.Generator) -> None:
    """Statistics near those of the data ``[n, channels, …]`` or ``[channels, …]``, but of each channel its own."""
    dim = 1 if data.dim() > 1 and data.shape[1] == len(mean) else 0
    if data.shape[dim] != len(mean):
        return
    rows = data.movedim(dim, 0).flatten(1)
    each = rows.shape[1] >= _ENOUGH
    centre, spread = (rows.mean(1), rows.var(1, correction=0)) if each else (rows.mean(), rows.var(correction=0))
    usual = spread.mean().clamp(min=1e-12)
    var.copy_(spread.clamp(min=usual / 10) * (0.5 + torch.rand(var.shape, generator=generator).to(var)))
    mean.copy_(centre + 0.1 * usual.sqrt() * torch.randn(mean.shape, generator=generator).to(mean))
