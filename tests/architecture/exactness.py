"""What a right cut is, judged without the package's own masks.

Two oracles. ``zeroed`` clears the cut channels wherever the architecture says that they occur. ``silenced`` trusts the
description of the *producers* only: the full network runs with the outputs of the layers that make the cut channels (and
of the normalisation after them) set to zero by hooks, so a consumer that was described wrongly shows.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from automl_prune.architecture import Architecture
from automl_prune.costs import CostModel
from automl_prune.surgery.slicing import materialise

IntArray = npt.NDArray[np.int64]
Kept = Mapping[str, IntArray]

TOLERANCE = 1e-4
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, FrozenBatchNorm2d)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)

_BLOCK = torch.rand(1_048_573, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
"""Values in [-1, 1); its prime length keeps two filters from being equal."""


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter and every statistic values that would show a wrong index, and outputs of order one."""
    offset = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = max(1, parameter[0].numel())
                _fill(parameter, 0.0, math.sqrt(6 / fan_in) if fan_in > 1 else 1.0, offset)
            else:
                _fill(parameter, 1.0 if name.endswith("weight") else 0.0, 0.4, offset)
            offset += parameter.numel()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                _fill(buffer, 0.0, 0.2, offset)
            elif name.endswith("running_var"):
                _fill(buffer, 1.0, 0.5, offset)
            offset += buffer.numel()
    return model.eval()


def calibrate(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Scale the statistics of batch normalisation to what arrives there, so that deep residual networks do not explode."""

    def scale(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(module.running_var, Tensor):
            module.running_var.mul_(arguments[0].var(correction=0) + 1e-3)

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(scale) for norm in norms]
    with torch.inference_mode():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return model


def random_units(architecture: Architecture, seed: int) -> dict[str, IntArray]:
    """A random legal width for every free group, at random positions."""
    rng = np.random.default_rng(seed)
    return {
        g.name: np.sort(rng.choice(g.units, size=int(rng.integers(1, g.units + 1)), replace=False)).astype(np.int64)
        for g in architecture.free_groups
    }


def narrowest_units(architecture: Architecture) -> dict[str, IntArray]:
    """One unit of every free group, the last."""
    return {g.name: np.array([g.units - 1], dtype=np.int64) for g in architecture.free_groups}


def widths_of(architecture: Architecture, kept: Kept) -> dict[str, int]:
    """Channels by group name."""
    return {name: len(units) * architecture.group(name).divisor for name, units in kept.items()}


def zeroed(model: nn.Module, architecture: Architecture, kept: Kept) -> nn.Module:
    """A copy with every entry of every cut channel cleared."""
    copied = copy.deepcopy(model)
    tensors = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    stays = _stays(architecture, kept)
    with torch.no_grad():
        for spec in architecture.tensors:
            for axis in spec.axes:
                gone = torch.from_numpy(np.flatnonzero(~stays[axis.ids()]))
                last = 0 if spec.indexes is None else sum(run.count * run.repeat for run in spec.indexes) - 1
                tensors[spec.name].index_fill_(axis.dim, gone, last)
    return copied


@contextmanager
def silenced(model: nn.Module, architecture: Architecture, kept: Kept) -> Iterator[nn.Module]:
    """The same module while the layers that put out cut channels put out zeros there."""
    stays = _stays(architecture, kept)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    owners = _owners(model)
    made: dict[str, list[IntArray]] = {}
    saved: list[tuple[Tensor, Tensor]] = []
    for spec in architecture.tensors:
        tensor = tensors[spec.name]
        for axis in (a for a in spec.axes if a.role != "in" and not stays[a.ids()].all()):
            layers = [o for o in owners[id(tensor)] if isinstance(model.get_submodule(o), CHANNELS_FIRST + CHANNELS_LAST)]
            for owner in layers:
                made.setdefault(owner, []).append(axis.ids())
            if not layers:
                saved.append((tensor, tensor.detach().clone()))
                tensor.detach().index_fill_(axis.dim, torch.from_numpy(np.flatnonzero(~stays[axis.ids()])), 0)
    hooks = [_silence(model.get_submodule(owner), ids, stays) for owner, ids in made.items()]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()
        for tensor, values in reversed(saved):
            tensor.detach().copy_(values)


def outputs_of(result: Any) -> list[Tensor]:
    """All tensors in a module's result, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [t for item in result.values() for t in outputs_of(item)]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [t for f in dataclasses.fields(result) for t in outputs_of(getattr(result, f.name))]
    return [t for item in result for t in outputs_of(item)] if isinstance(result, list | tuple) else []


def run(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The module's outputs for a copy of the inputs (some modules write into theirs)."""
    with torch.inference_mode():
        found = outputs_of(model(inputs.clone()))
    assert found, "a module without an output tensor tests nothing"
    return found


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of any output, relative to that output's largest magnitude; inf where shapes differ."""
    if [t.shape for t in found] != [t.shape for t in expected]:
        return math.inf
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    return max(float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6) for a, b in pairs)


def check_sizes(model: nn.Module, architecture: Architecture, kept: Kept, small: nn.Module) -> None:
    """Requested = obtained widths, modules that say so themselves, and parameters as the closed form counts them."""
    _check_widths(model, architecture, kept, small)
    claimed = CostModel(architecture).one(widths_of(architecture, kept))["params"]
    params = sum(p.numel() for p in small.parameters())
    assert claimed == params, f"{claimed:,.0f} parameters by widths, {params:,} in the module"


def check_macs(architecture: Architecture, kept: Kept, small: nn.Module, inputs: Tensor) -> None:
    """Multiply-adds by widths are those that torch counts, for one sample."""
    claimed, macs = CostModel(architecture).one(widths_of(architecture, kept))["macs"], counted_macs(small, inputs[:1])
    assert claimed == macs, f"{claimed:,.0f} MACs by widths, {macs:,} by torch's counter"


def check_whole(model: nn.Module, architecture: Architecture, inputs: Tensor, outputs: list[Tensor]) -> None:
    """With nothing cut the outputs are the same bits."""
    pairs = zip(run(materialise(model, architecture, {}), inputs), outputs, strict=True)
    assert all(torch.equal(new, old) for new, old in pairs), "full widths are not bit-identical"


def counted_macs(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-adds as torch counts them: on the meta device, or on the CPU for modules that make tensors there."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    for candidate, example in ((copy.deepcopy(model, memo), inputs.to("meta")), (model, inputs.clone())):
        counter = FlopCounterMode(display=False)
        try:
            with counter, torch.inference_mode():
                candidate(example)
        except (RuntimeError, NotImplementedError):
            continue
        return int(counter.get_total_flops()) // 2
    raise AssertionError("the module does not run")


def _check_widths(model: nn.Module, architecture: Architecture, kept: Kept, small: nn.Module) -> None:
    """Requested = obtained for every group, and every layer's own account of its sizes agrees with its tensors."""
    stays, widths = _stays(architecture, kept), widths_of(architecture, kept)
    full, cut = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (model, small))
    assert full.keys() == cut.keys()
    for spec in architecture.tensors:
        expected = list(full[spec.name].shape)
        for axis in spec.axes:
            expected[axis.dim] = int(stays[axis.ids()].sum())
        assert list(cut[spec.name].shape) == expected, spec.name
    modules, cut_modules = dict(model.named_modules()), dict(small.named_modules())
    for group in architecture.free_groups:
        for layer in architecture.producers[group.name]:
            before, after = (_declared_outputs(m.get(layer)) for m in (modules, cut_modules))
            if before == group.width and after is not None:
                assert after == widths.get(group.name, group.width), f"{layer} of {group.name}"
    described = {spec.name for spec in architecture.tensors}
    assert all(cut[name].shape == full[name].shape for name in full.keys() - described)
    for name, module in cut_modules.items():
        assert _consistent(module), f"{name} says {module}, its tensors say otherwise"


def _declared_outputs(module: nn.Module | None) -> int | None:
    """A layer's own word on its width; None where it has none, as a bare parameter has not."""
    found = getattr(module, "out_channels", getattr(module, "out_features", None))
    return found if isinstance(found, int) else None


def _consistent(module: nn.Module) -> bool:
    """Whether a module's attributes and its tensors tell the same sizes."""
    match module:
        case nn.modules.conv._ConvTransposeNd():
            ends = (module.in_channels, module.out_channels // module.groups)
            return tuple(module.weight.shape[:2]) == ends and _as_long(module.bias, module.out_channels)
        case nn.modules.conv._ConvNd():
            ends = (module.out_channels, module.in_channels // module.groups)
            return tuple(module.weight.shape[:2]) == ends and _as_long(module.bias, module.out_channels)
        case nn.Linear():
            ends = (module.out_features, module.in_features)
            return tuple(module.weight.shape) == ends and _as_long(module.bias, module.out_features)
        case nn.modules.batchnorm._NormBase():
            return _as_long(module.weight, module.num_features) and _as_long(module.running_mean, module.num_features)
        case nn.GroupNorm():
            return _as_long(module.weight, module.num_channels) and module.num_channels % module.num_groups == 0
        case _:
            return True


def _as_long(tensor: Tensor | None, size: int) -> bool:
    return tensor is None or len(tensor) == size


def _stays(architecture: Architecture, kept: Kept) -> npt.NDArray[np.bool_]:
    """Which unit ids are kept, ``[units]``."""
    stays = np.ones(sum(g.units for g in architecture.groups), dtype=bool)
    for group in architecture.groups:
        if group.name in kept:
            stays[group.start : group.start + group.units] = np.isin(np.arange(group.units), kept[group.name])
    return stays


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each tensor (by identity): several where weights are tied."""
    found: dict[int, list[str]] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        found.setdefault(id(tensor), []).append(name.rpartition(".")[0].partition(".parametrizations")[0])
    return found


def _silence(module: nn.Module, candidates: list[IntArray], stays: npt.NDArray[np.bool_]) -> Any:
    """A hook that zeroes a module's cut output channels; a grouped weight names those of one group only."""
    dim = -1 if isinstance(module, CHANNELS_LAST) else 1
    ids = max(candidates, key=len)

    def zero(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        mask = torch.from_numpy(stays[np.tile(ids, output.shape[dim] // len(ids))])
        shape = [1] * output.dim()
        shape[dim] = len(mask)
        return output.masked_fill(~mask.view(shape), 0.0)

    return module.register_forward_hook(zero)


def _fill(tensor: Tensor, centre: float, spread: float, offset: int) -> None:
    """Values in ``centre ± spread``, read from the block as if it went on for ever."""
    flat, start, size = tensor.detach().view(-1), offset % len(_BLOCK), len(_BLOCK)
    position = 0
    while position < len(flat):
        piece = _BLOCK[start : start + min(size - start, len(flat) - position)]
        torch.mul(piece, spread, out=flat[position : position + len(piece)])
        position, start = position + len(piece), 0
    if centre:
        flat.add_(centre)
