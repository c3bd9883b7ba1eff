"""Which channels are worth keeping: importance of every unit of a group, from weights alone.

A criterion scores the channels of one layer; the scores of the layers that produce a coupled group are combined by a
declared reduction. Each layer's scores are divided by their mean first, so that a layer with large weights does not decide
alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.registry import Registry

FloatArray = npt.NDArray[np.float64]
Reduction = Literal["mean", "sum", "max", "first"]
Weights = Mapping[str, Tensor]

CRITERIA: Registry["Criterion"] = Registry(
    "criterion", package="automl_prune.surgery", entry_point_group="automl_prune.criteria"
)


class Criterion(ABC):
    """Scores the channels of a group; the lowest are cut first, ties by position."""

    name: ClassVar[str]
    help: ClassVar[str]
    paper: ClassVar[str | None] = None
    seeded: ClassVar[bool] = False

    def score(
        self,
        architecture: Architecture,
        group: ChannelGroup,
        weights: Weights,
        *,
        reduction: Reduction = "mean",
        seed: int = 0,
    ) -> FloatArray:
        """Importance of each unit, ``[units]``; ``seed`` matters to random criteria only."""
        scores = [self._by_unit(architecture, group, name, dim, weights) for name, dim in self.sources(architecture, group)]
        normalised = np.stack([s / max(s.mean(), np.finfo(np.float64).tiny) for s in scores])
        if reduction == "first":
            return np.asarray(normalised[0])
        return np.asarray(getattr(normalised, reduction)(axis=0))

    def sources(self, architecture: Architecture, group: ChannelGroup) -> list[tuple[str, int]]:
        """Tensors (name, axis) whose channels are scored: weights that produce the group."""
        return producers(architecture, group)

    @abstractmethod
    def channels(self, rows: Tensor) -> Tensor:
        """Scores of one tensor's channels, ``[channels]``, from ``[channels, rest]``."""

    def _by_unit(self, architecture: Architecture, group: ChannelGroup, name: str, dim: int, weights: Weights) -> FloatArray:
        weight = weights[name].detach()
        rows = weight.movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight[:, None]
        values = self.channels(rows.float()).double().cpu().numpy()
        local = architecture.axis_ids[name, dim] - group.start
        inside = (local >= 0) & (local < group.units)
        counts = np.bincount(local[inside], minlength=group.units)
        return np.asarray(np.bincount(local[inside], weights=values[inside], minlength=group.units) / np.maximum(counts, 1))


def producers(architecture: Architecture, group: ChannelGroup) -> list[tuple[str, int]]:
    """Weighted axes that put out the group's channels; where none does, every axis the group occurs on."""
    found = [(t.name, a.dim, a.role) for t, a in architecture.places[group.name] if t.indexes is None]
    out = [(name, dim) for name, dim, role in found if role == "out"]
    return out or [(name, dim) for name, dim, _ in found]


def kept_units(scores: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Positions of the ``count`` highest scores, ascending; the earlier position wins a tie."""
    order = np.argsort(-scores, kind="stable")[:count]
    return np.sort(order)


class _Norm(Criterion):
    power: ClassVar[float]

    def channels(self, rows: Tensor) -> Tensor:
        """The p-norm of each row."""
        return rows.abs().sum(dim=1) if self.power == 1 else rows.square().sum(dim=1).sqrt()


@CRITERIA.add_instance("l1")
class L1(_Norm):
    """Sum of absolute weights."""

    help, paper, power = "Sum of absolute weights of each filter.", "Li et al. 2017, arXiv 1608.08710", 1.0


@CRITERIA.add_instance("l1_inputs")
class L1OfInputs(L1):
    """Sum of absolute weights of what the channels are taken in by."""

    help, paper = "Sum of absolute weights that take the channel in (AMC's choice).", "He et al. 2018, arXiv 1802.03494"

    def sources(self, architecture: Architecture, group: ChannelGroup) -> list[tuple[str, int]]:
        """Weighted axes that take the group's channels in; where none does, those that put them out."""
        found = [(t.name, a.dim) for t, a in architecture.places[group.name] if t.indexes is None and a.role == "in"]
        return found or producers(architecture, group)


@CRITERIA.add_instance("l2")
class L2(_Norm):
    """Euclidean norm of the weights."""

    help, paper, power = "Euclidean norm of each filter.", "He et al. 2018 (SFP), arXiv 1808.06866", 2.0


@CRITERIA.add_instance("fpgm")
class GeometricMedian(Criterion):
    """Distance to all other filters: filters near the geometric median are redundant."""

    help, paper = "Sum of distances to the layer's other filters.", "He et al. 2019, arXiv 1811.00250"

    def channels(self, rows: Tensor) -> Tensor:
        """Row sums of the distance matrix."""
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


@CRITERIA.add_instance("bn_scale")
class NormScale(Criterion):
    """Absolute scale of the normalisation that follows; groups without one are ranked by their L1 norm."""

    help, paper = "Absolute batch-norm scale; L1 where a group has none.", "Liu et al. 2017, arXiv 1708.06519"

    def sources(self, architecture: Architecture, group: ChannelGroup) -> list[tuple[str, int]]:
        """The scales of normalisation layers on the group."""
        weighted = {layer.name for layer in architecture.layers}
        norms = [m for m in group.members if m not in weighted and f"{m}.weight" in architecture.tensor]
        return [(f"{m}.weight", 0) for m in norms] or producers(architecture, group)

    def channels(self, rows: Tensor) -> Tensor:
        """Sum of absolute values (one per row for a scale)."""
        return rows.abs().sum(dim=1)


@CRITERIA.add_instance("random")
class RandomCriterion(Criterion):
    """Uniform random scores: a control, and what ABCPruner inherits by."""

    seeded = True
    help, paper = "Random channels; seeded by search, trial and group.", "Lin et al. 2020 (ABCPruner), arXiv 2001.08565"

    def score(
        self,
        architecture: Architecture,
        group: ChannelGroup,
        weights: Weights,
        *,
        reduction: Reduction = "mean",
        seed: int = 0,
    ) -> FloatArray:
        """Random numbers derived from the seed and the group's place."""
        return np.random.default_rng([seed, group.start]).random(group.units)

    def channels(self, rows: Tensor) -> Tensor:
        """Not used: scores do not depend on weights."""
        return torch.zeros(len(rows))
