"""Make the smaller module: every tensor keeps the entries whose channels are kept, nothing is traced again."""

from collections.abc import Mapping
from operator import attrgetter, itemgetter

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import Units
from automl_prune.cloning import Memo, clone
from automl_prune.errors import TraceError, UserError
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.surgery.criteria import CRITERIA, Criterion, FloatArray, Reduction, kept_units
from automl_prune.surgery.cutting import Plan, Selection, TensorPlan, cut
from automl_prune.surgery.sizes import declare_sizes

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

    def scores(self, name: str, *, seed: int = 0) -> FloatArray:
        """Importance of each unit of a group, ``[units]``, on average 1; raises UnknownNameError."""
        scores = self._group_scores(self.architecture.group(name), seed)
        return scores / max(float(scores.mean()), np.finfo(np.float64).tiny)

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
    """The module with only the kept units; unnamed groups stay whole. Shares no memory with the argument.

    Raises:
        UnknownNameError: No such group.
        UserError: The module is not the one that the architecture describes.
        TraceError: It copies itself in a way that leaves out the cut, as TorchScript does.
    """
    plan = Plan.of(architecture)
    selections = plan.select(architecture, kept)
    tensors, owners = _tensors(model)
    memo: Memo = {}
    cuts: dict[str, Tensor] = {}
    rows: dict[nn.Module, tuple[int, Selection | None]] = {}
    for planned in plan.tensors:
        axes = {dim: chosen for dim, place in planned.axes if (chosen := selections[place])}
        values = None if planned.indexes is None else selections[planned.indexes]
        if axes or values:
            original = _checked(tensors, planned)
            cuts[planned.name] = memo[id(original)] = cut(original, axes, values)
            for owner in owners[id(original)]:
                rows[owner] = max(rows.get(owner, (0, None)), (original.dim(), axes.get(0)), key=itemgetter(0))
    small = clone(model, memo)
    _check_cut(small, cuts)
    for owner, (_, selection) in rows.items():
        if (module := memo.get(id(owner))) is not None:  # a module's own __deepcopy__ may leave its parts out of the memo
            declare_sizes(module, None if selection is None else selection.stays)
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


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[int, list[nn.Module]]]:
    """Parameters and buffers by name, and the modules that compute with each, by id (several where weights are tied)."""
    modules = dict(model.named_modules())
    tensors: dict[str, Tensor] = {}
    owners: dict[int, list[nn.Module]] = {}
    for path, module in modules.items():
        owner = modules[f".{path}".partition(".parametrizations.")[0][1:]]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                tensors[f"{path}.{name}" if path else name] = tensor
                owners.setdefault(id(tensor), []).append(owner)
    return tensors, owners


def _checked(tensors: Mapping[str, Tensor], planned: TensorPlan) -> Tensor:
    tensor = tensors.get(planned.name)
    if tensor is None or tuple(tensor.shape) != planned.shape:
        came = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}"
        raise UserError(
            f"The module is not the one that was traced: its {planned.name!r} {came}; expected {list(planned.shape)}."
        )
    return tensor


def _check_cut(small: nn.Module, cuts: Mapping[str, Tensor]) -> None:
    """Raise TraceError unless a copy has the tensors that were cut: a module may say itself how it is copied."""
    for name, expected in cuts.items():
        found = attrgetter(name)(small)
        if found.shape != expected.shape:
            raise TraceError(
                f"{type(small).__name__} keeps {name!r} at its full size {list(found.shape)} when it is copied, as "
                "TorchScript does; pass the Python module that it was made from."
            )
