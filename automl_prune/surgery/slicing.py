"""Make the smaller module: every tensor keeps the entries whose channels are kept, nothing is traced again."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import BoolArray, Run, Units, expand
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.surgery.criteria import CRITERIA, Criterion, FloatArray, Reduction, kept_units

IntArray = npt.NDArray[np.int64]


class Ranking:
    """Channels of a network in order of importance; each group is scored once, however many candidates follow.

    Args:
        model: The traced network; only its weights are read.
        architecture: Its description.
        criterion: A registered criterion.
        reduction: How scores of coupled layers combine.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, criterion: Criterion, *, reduction: Reduction = "mean"
    ) -> None:
        self.architecture, self._criterion, self._reduction = architecture, criterion, reduction
        self._weights = dict(model.named_parameters())
        self._scores: dict[tuple[str, int], FloatArray] = {}

    def keep(self, widths: Mapping[str, int], *, seed: int = 0) -> dict[str, IntArray]:
        """Kept units by group name, ascending, for every group that becomes narrower; ``seed`` is for random criteria.

        Raises:
            UnknownNameError: No such group or layer.
            WidthError: A width that its group cannot take.
        """
        kept = {}
        for name, width in self.architecture.resolve(widths).items():
            group = self.architecture.group(name)
            if width < group.width:
                kept[name] = kept_units(self._group_scores(group, seed), width // group.divisor)
        return kept

    def _group_scores(self, group: ChannelGroup, seed: int) -> FloatArray:
        key = (group.name, seed if self._criterion.seeded else 0)
        if key not in self._scores:
            if self._criterion.seeded:
                self._scores.clear()
            self._scores[key] = self._criterion.score(
                self.architecture, group, self._weights, reduction=self._reduction, seed=seed
            )
        return self._scores[key]


def prune(
    model: nn.Module,
    architecture: Architecture,
    widths: Mapping[str, int] | Candidate,
    criterion: str = "l1",
    *,
    reduction: Reduction = "mean",
    seed: int = 0,
    space: ChannelSpace | None = None,
) -> nn.Module:
    """A new, smaller module; the given one is not touched.

    Args:
        model: The traced network, with its weights.
        architecture: What :func:`~automl_prune.architecture.tracing.trace` said of it.
        widths: Channels to keep by group or layer name, or a candidate of ``space``.
        criterion: A registered criterion's name.
        reduction: How scores of coupled layers combine: mean, sum, max or first.
        seed: For the random criterion.
        space: The space that a Candidate belongs to.

    Raises:
        UnknownNameError: No such group, layer or criterion.
        WidthError: A width that its group cannot take.
    """
    if isinstance(widths, Candidate):
        widths = (space or ChannelSpace.of(architecture)).widths(widths)
    ranking = Ranking(model, architecture, CRITERIA.get(criterion), reduction=reduction)
    return materialise(model, architecture, ranking.keep(widths, seed=seed))


def materialise(model: nn.Module, architecture: Architecture, kept: Mapping[str, Units]) -> nn.Module:
    """The module with only the kept units; unnamed groups stay whole. Shares no memory with the argument."""
    keep = architecture.keep(kept)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    memo: dict[int, Any] = {}
    changed: set[str] = set()
    for spec in architecture.tensors:
        original = tensors[spec.name]
        data = original.detach()
        for axis in spec.axes:
            stays = keep[architecture.axis_ids[spec.name, axis.dim]]
            if not stays.all():
                data = data.index_select(axis.dim, torch.from_numpy(np.flatnonzero(stays)).to(data.device))
        if spec.indexes is not None:
            data = _renumber(data, spec.indexes, keep)
        if data.shape != original.shape or spec.indexes is not None:
            changed.add(spec.name.rpartition(".")[0])
            memo[id(original)] = nn.Parameter(data, original.requires_grad) if isinstance(original, nn.Parameter) else data
    small = copy.deepcopy(model, memo)
    for name in changed:
        _declare_sizes(small.get_submodule(name))
    return small


def kept_channels(architecture: Architecture, kept: Mapping[str, Units]) -> dict[str, list[int]]:
    """Kept output channels of every weighted layer that lost some, by layer name."""
    keep = architecture.keep(kept)
    result = {}
    for layer in architecture.layers:
        for axis in architecture.tensor[layer.weight].axes:
            stays = keep[architecture.axis_ids[layer.weight, axis.dim]]
            if axis.role == "out" and not stays.all():
                result[layer.name] = np.flatnonzero(stays).tolist()
    return result


def _renumber(positions: Tensor, indexes: Sequence[Run], keep: BoolArray) -> Tensor:
    """A channel map after the cut: its values point into what is left; cut channels become the zero channel at the end."""
    stays = keep[expand(indexes)]
    renumbered = np.cumsum(stays) - 1
    renumbered[~stays] = stays.sum() - 1
    return torch.from_numpy(renumbered).to(positions.dtype).to(positions.device)[positions]


def _declare_sizes(module: nn.Module) -> None:
    """Make a module's own account of its sizes agree with its tensors."""
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if module.in_channels == module.groups > 1:  # depthwise in the full network: a group per channel
                module.groups = module.weight.shape[0] // (module.out_channels // module.in_channels)
            module.out_channels = module.weight.shape[0]
            module.in_channels = module.weight.shape[1] * module.groups
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.modules.batchnorm._NormBase():
            sized = module.running_mean if module.running_mean is not None else module.weight
            if sized is not None:
                module.num_features = len(sized)
        case _:
            pass
