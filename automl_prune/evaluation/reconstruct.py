"""Weights that make up for what is missing: least squares on features of the full network (He et al. 2017, AMC 2018).

When a layer loses inputs, the weights on those it keeps are fitted so that its outputs stay as near as can be to the full
network's. Features are sampled once, from training images passed through the full network: what a layer takes in at some
output positions, unfolded over its kernel, and what it puts out there. Of these rows ``X`` and ``Y`` only ``X'X``, ``X'Y``
and ``Y'Y`` are kept, which is all that the least squares of any choice of inputs need, however many rows there are:

    W' = argmin |Y - X[kept] W|²  =  (X'X)[kept, kept]⁻¹ (X'Y)[kept]

There is no intercept; a bias stays and is taken off ``Y`` first. As published, ``X`` is of the full network too, not of
the candidate, so layers are fitted independently of each other.

Layers keep their inherited weights where the sums would take more than :data:`MEMORY` in all, as for the first linear layer
of VGG-16 at 224 x 224 (5.5 GiB), and where there are no such weights (grouped convolutions, attention). Those that lose
inputs and are left so are named in the outcome and the result (``not_reconstructed``).
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import BoolArray, Layer, Units
from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.modes import device_of, training_flags_kept

log = logging.getLogger(__name__)

CHUNK = 50
"""Images that share their sampled positions, a batch of the released code (``n_points_per_layer`` of each)."""
MEMORY = 2 * 2**30
"""Bytes that what is kept of the features may take; layers that do not fit any more are left as they are."""
RIDGE = 1e-10
"""Added to the diagonal, as a part of its mean: inputs that are sums of others do not stop the solution."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Moments:
    """Sums over the sampled rows of one layer, float64.

    Attributes:
        inputs: X'X ``[inputs * kernel, inputs * kernel]``.
        both: X'Y ``[inputs * kernel, outputs]``.
        outputs: The diagonal of Y'Y, ``[outputs]``.
    """

    inputs: Tensor
    both: Tensor
    outputs: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count rows ``x`` ``[rows, inputs * kernel]`` and ``y`` ``[rows, outputs]``."""
        x, y = x.double(), y.double()
        self.inputs.addmm_(x.T, x)
        self.both.addmm_(x.T, y)
        self.outputs.add_(y.square().sum(dim=0))


class Reconstruction:
    """Fits the weights of candidates of one network.

    Args:
        model: The full network, in evaluation mode.
        architecture: Its description.
        batches: Training images.
        images: How many of them are used.
        points: Output positions per image; all of them where there are no more, as after pooling.
        seed: Of the positions.

    Attributes:
        skipped: Why layers are left as they are, by name.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, batches: Iterable[Batch], *, images: int, points: int, seed: int
    ) -> None:
        self.architecture, self.points = architecture, points
        self.skipped: dict[str, str] = {}
        self._layers = {layer.name: layer for layer in architecture.layers}
        self._moments = self._prepared(model)
        self._rng = np.random.default_rng(seed)
        if self._moments:
            self._gather(model, batches, images)
        for layer, reason in self.skipped.items():
            log.info("%s is not reconstructed: %s", layer, reason)

    def apply(self, small: nn.Module, kept: Mapping[str, Units]) -> dict[str, tuple[float, float]]:
        """Fit the weights of a candidate in place, layer by layer, where inputs are missing.

        Args:
            small: The full network cut to ``kept``, with inherited weights.
            kept: Kept units by group name.

        Returns:
            The relative error |Y - XW|² / |Y|² of the sampled outputs before and after, by layer; after is never more.
        """
        keep = self.architecture.keep(kept)
        modules = dict(small.named_modules())
        errors = {}
        for name, moments in self._moments.items():
            taken, put = self._sides(self._layers[name], keep)
            if not taken.all():
                errors[name] = _fit(modules[name], moments, taken, put)
        return errors

    def left_out(self, kept: Mapping[str, Units]) -> list[str]:
        """Layers that lose inputs to ``kept`` and keep their inherited weights, as these cannot be fitted."""
        keep = self.architecture.keep(kept)
        inputs = {name: self.architecture.axis_ids.get((self._layers[name].weight, 1)) for name in self.skipped}
        return [
            name
            for name, ids in inputs.items()
            if self._layers[name].kind != "depthwise" and ids is not None and not keep[ids].all()
        ]

    def _sides(self, layer: Layer, keep: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Which inputs ``[inputs]`` and outputs ``[outputs]`` of a layer stay."""
        shape = self.architecture.tensor[layer.weight].shape
        sides = []
        for dim in (1, 0):
            ids = self.architecture.axis_ids.get((layer.weight, dim))
            sides.append(np.ones(shape[dim], dtype=bool) if ids is None else keep[ids])
        return sides[0], sides[1]

    def _prepared(self, model: nn.Module) -> dict[str, Moments]:
        """Empty sums for the layers that can be fitted."""
        free = np.array([g.frozen is None for g in self.architecture.groups])[self.architecture.owner]
        modules, found, used = dict(model.named_modules()), {}, 0
        for name, layer in self._layers.items():
            ids = self.architecture.axis_ids.get((layer.weight, 1))
            if layer.kind == "depthwise":
                self.skipped[name] = "depthwise: each of its outputs has one input, which stays or goes with it"
            elif reason := _unfit(modules.get(name), layer):
                self.skipped[name] = reason
            elif ids is not None and free[ids].any():
                module: Any = modules[name]
                width, outputs = math.prod(module.weight.shape[1:]), len(module.weight)
                size = 8 * width * (width + outputs)
                if used + size > MEMORY:
                    self.skipped[name] = f"its features need {size / 2**20:.0f} MiB, more than is left of {MEMORY >> 20} MiB"
                    continue
                used += size
                zeros = module.weight.new_zeros
                found[name] = Moments(
                    zeros(width, width, dtype=torch.float64),
                    zeros(width, outputs, dtype=torch.float64),
                    zeros(outputs, dtype=torch.float64),
                )
        return found

    def _gather(self, model: nn.Module, batches: Iterable[Batch], images: int) -> None:
        """Pass images through the full network and count what is sampled on the way."""
        modules = dict(model.named_modules())
        hooks = [modules[name].register_forward_hook(self._hook(moments)) for name, moments in self._moments.items()]
        try:
            with torch.no_grad(), training_flags_kept(model):
                model.eval()
                for batch, _ in _limited(batches, images):
                    model(batch.to(device_of(model)))
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, moments: Moments) -> Any:
        def sample(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            taken, put = _padded(module, inputs[0]), output.movedim(-1 if isinstance(module, nn.Linear) else 1, 1)
            bias = 0 if module.bias is None else module.bias
            for start in range(0, len(put), CHUNK):
                x, y = taken[start : start + CHUNK], put[start : start + CHUNK]
                places = list(self._places(tuple(y.shape[2:])))
                moments.add(
                    torch.cat([_patch(module, x, place) for place in places]),
                    torch.cat([_at(y, place) - bias for place in places]),
                )

        return sample

    def _places(self, size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Output positions to sample, each at most once."""
        count = math.prod(size)
        for place in self._rng.choice(count, min(self.points, count), replace=False):
            yield tuple(int(i) for i in np.unravel_index(place, size))


def _fit(module: Any, moments: Moments, taken: BoolArray, put: BoolArray) -> tuple[float, float]:
    """Give a cut layer the weights of least squares, unless its own are no worse; its relative errors before and after."""
    weight = module.weight
    kernel = math.prod(weight.shape[2:])
    device = moments.inputs.device
    rows = torch.from_numpy(np.flatnonzero(np.repeat(taken, kernel))).to(device)
    columns = torch.from_numpy(np.flatnonzero(put)).to(device)
    inputs, both = moments.inputs[rows][:, rows], moments.both[rows][:, columns]
    outputs = moments.outputs[columns].sum().clamp_min(torch.finfo(torch.float64).tiny)

    def error(solution: Tensor) -> float:
        left = outputs + (solution * (inputs @ solution - 2 * both)).sum()
        return max(0.0, float(left / outputs))

    own = weight.detach().flatten(1).T.to(device, torch.float64)
    fitted = _solve(inputs, both).to(weight.dtype)
    before, after = error(own), error(fitted.double())
    if not after < before:
        return before, before
    with torch.no_grad():
        weight.copy_(fitted.T.reshape(weight.shape))
    return before, after


def _solve(inputs: Tensor, both: Tensor) -> Tensor:
    """The least squares solution of normal equations; of least norm where inputs depend on each other."""
    ridge = RIDGE * inputs.diagonal().mean()
    factor, failed = torch.linalg.cholesky_ex(inputs + torch.diag(ridge.expand(len(inputs))))
    if not int(failed):
        return torch.cholesky_solve(both, factor)
    solution: Tensor = torch.linalg.pinv(inputs, hermitian=True) @ both
    return solution


def _unfit(module: nn.Module | None, layer: Layer) -> str | None:
    """Why a layer's weights cannot be fitted; None if they can."""
    if not isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return f"{type(module).__name__} is neither a convolution nor a linear layer"
    if isinstance(module, CONVOLUTIONS) and module.groups > 1:
        return "grouped: its inputs are not all of its outputs'"
    if layer.weight != f"{layer.name}.weight" or "weight" not in module._parameters:
        return "its weight is computed from others"
    return None


def _padded(module: Any, x: Tensor) -> Tensor:
    """What a layer slides over, channels second."""
    if isinstance(module, nn.Linear):
        return x.movedim(-1, 1)
    if module.padding == "valid":
        return x
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(p, p) for p in module.padding]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, [p for side in reversed(sides) for p in side], mode=mode)


def _patch(module: Any, padded: Tensor, place: tuple[int, ...]) -> Tensor:
    """What a layer takes in for one output position, ``[n, inputs * kernel]``."""
    if isinstance(module, nn.Linear):
        return _at(padded, place)
    for dim, (p, s, d, k) in enumerate(zip(place, module.stride, module.dilation, module.kernel_size, strict=True), 2):
        padded = padded.narrow(dim, p * s, d * (k - 1) + 1)[(slice(None),) * dim + (slice(None, None, d),)]
    return padded.flatten(1)


def _at(maps: Tensor, place: tuple[int, ...]) -> Tensor:
    """Channels ``[n, channels]`` at one position of maps ``[n, channels, …]``."""
    for i in place:
        maps = maps.select(2, i)
    return maps


def _limited(batches: Iterable[Batch], images: int) -> Iterator[Batch]:
    """Batches with ``images`` in all; the last one is cut short."""
    left = images
    for batch, labels in batches:
        yield batch[:left], labels[:left]
        left -= len(batch)
        if left <= 0:
            return
