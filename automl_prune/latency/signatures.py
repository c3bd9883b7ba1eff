"""Which blocks an architecture is made of, and how wide each is for given widths of its groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture, Layer, Run
from automl_prune.costs.forms import FloatArray, Sizes, with_constant
from automl_prune.latency.blocks import Signature
from automl_prune.space import ChannelSpace

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayersAlike:
    """All layers of one signature.

    Attributes:
        signature: What they have in common.
        layers: Their names.
        inputs, outputs: Their widths as linear forms in ``(1, widths)``, ``[layers, 1 + groups]``; the inputs of a grouped
            convolution are those of one of its groups.
    """

    signature: Signature
    layers: tuple[str, ...]
    inputs: FloatArray
    outputs: FloatArray

    def widths_of(self, widths: IntArray) -> tuple[IntArray, IntArray]:
        """Inputs and outputs of each layer, ``[candidates, layers]`` each, for ``widths`` ``[candidates, groups]``."""
        rows = with_constant(widths)
        inputs, outputs = (np.rint(rows @ forms.T).astype(np.int64) for forms in (self.inputs, self.outputs))
        return np.maximum(inputs, 1), np.maximum(outputs, 1)

    def reachable(self, space: ChannelSpace) -> tuple[IntArray, IntArray]:
        """Every width that an input and an output of these layers can have in the space, ascending."""
        return _values(self.inputs, space), _values(self.outputs, space)


def layers_alike(architecture: Architecture, space: ChannelSpace) -> list[LayersAlike]:
    """The layers that are timed by themselves, by signature, in order of execution.

    Left out are layers whose shape does not follow from what is known of them (transposed convolutions, uneven padding,
    recurrent layers): they belong to the rest of the network, as everything without weights does.
    """
    sizes = Sizes(architecture, {name: i for i, name in enumerate(space.names)})
    norm = any(t.name.endswith("running_mean") for t in architecture.tensors)
    found: dict[Signature, list[Layer]] = {}
    for layer in architecture.layers:
        signature = _signature(architecture, layer, norm=norm)
        if signature is not None:
            found.setdefault(signature, []).append(layer)
    alike = []
    for signature, layers in found.items():
        outputs = sizes.of([_runs(architecture, layer, 0) for layer in layers])
        inputs = outputs if signature.tied else sizes.of([_runs(architecture, layer, 1) for layer in layers])
        alike.append(LayersAlike(signature, tuple(layer.name for layer in layers), inputs, outputs))
    return alike


def _runs(architecture: Architecture, layer: Layer, dim: int) -> Sequence[Run]:
    return next(a.runs for a in architecture.tensor[layer.weight].axes if a.dim == dim)


def _signature(architecture: Architecture, layer: Layer, *, norm: bool) -> Signature | None:
    tensor = architecture.tensor.get(layer.weight)
    if tensor is None:
        return None
    dims = {a.dim for a in tensor.axes}
    if layer.kind == "linear":
        return Signature("linear", rows=layer.positions) if dims == {0, 1} and len(tensor.shape) == 2 else None
    wanted = {"conv": {0, 1}, "depthwise": {0}}.get(layer.kind)
    if dims != wanted or len(tensor.shape) != 2 + len(layer.size) or not 1 <= len(layer.size) <= 3:
        return None
    kernel, dilation = tensor.shape[2:], layer.dilation
    padding = _padding(layer, tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)))
    if padding is None or not layer.groups:
        return None
    groups = 1 if layer.kind == "depthwise" else layer.groups
    shape = (kernel, layer.stride, padding, layer.size)
    return Signature(layer.kind, *shape, norm=norm, dilation=dilation, groups=groups)


def _padding(layer: Layer, reach: tuple[int, ...]) -> tuple[int, ...] | None:
    """The padding that gives as many positions as the layer has, alike along all axes or as keeps the size; else None.

    ``reach`` is what its kernel spans, dilated as it is.
    """
    for padding in (tuple(k // 2 for k in reach), *((p,) * len(reach) for p in range(max(reach) + 1))):
        steps = zip(layer.size, reach, layer.stride, padding, strict=True)
        if math.prod(max(0, (size + 2 * p - k) // s + 1) for size, k, s, p in steps) == layer.positions:
            return padding
    return None


def _values(forms: FloatArray, space: ChannelSpace) -> IntArray:
    """The values of linear forms over a space; of a form in several groups, as many as their sums can take."""
    values: set[int] = set()
    for form in forms:
        reached = {float(form[0])}
        for share, choices in zip(form[1:], space.choices, strict=True):
            if share:
                reached = {v + share * c for v in reached for c in choices} if len(reached) < 2048 else reached
        values |= {max(1, round(v)) for v in reached}
    return np.array(sorted(values), dtype=np.int64)
