"""Which entries of which tensors a candidate keeps: worked out once per architecture, then cheap for every candidate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import BoolArray, IntArray, Run, Units, expand

PRICE_OF_INNER_AXES = 2.5
"""What copying an entry costs when an inner axis is cut, in terms of the first, whose rows are copied whole (measured)."""

PIECE = 2**17
"""Entries of a tensor that are cut at once."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries of an axis stay: a mask ``[full size]``, positions ``[kept]``, and where they start if in one piece."""

    stays: BoolArray
    positions: Tensor
    start: int | None

    @classmethod
    def of(cls, stays: BoolArray) -> "Selection | None":
        """From a mask; None if everything stays."""
        positions = np.flatnonzero(stays)
        if len(positions) == len(stays):
            return None
        one_piece = len(positions) and positions[-1] - positions[0] + 1 == len(positions)
        return cls(stays, torch.from_numpy(positions), int(positions[0]) if one_piece else None)

    def effort(self, dim: int) -> float:
        """Axes in ascending order of this are cut in the cheapest order.

        Cutting at a price ``p`` per entry to a fraction ``f`` before the other axis beats the reverse when
        ``p f + f f' p' < p' f' + f f' p``, that is ``p f / (1 - f) < p' f' / (1 - f')``.
        """
        kept = self.positions.numel()
        return (PRICE_OF_INNER_AXES if dim else 1.0) * kept / (len(self.stays) - kept)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor that can be cut.

    ``axes`` holds dimensions and where in :attr:`Plan.ids` their unit ids are; ``indexes`` says where those are that the
    values of a channel map point into.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, int], ...]
    indexes: int | None


class Plan:
    """What cutting needs of an architecture; tensors with the same channels share one array of unit ids.

    Attributes:
        tensors: The tensors that can be cut.
        ids: Unit ids along axes, each ``[size]``.
    """

    def __init__(self, architecture: Architecture) -> None:
        places: dict[tuple[Run, ...], int] = {}

        def place(runs: tuple[Run, ...]) -> int:
            return places.setdefault(runs, len(places))

        self.tensors = tuple(
            TensorPlan(
                t.name,
                t.shape,
                tuple((a.dim, place(a.runs)) for a in t.axes),
                None if t.indexes is None else place(t.indexes),
            )
            for t in architecture.tensors
        )
        self.ids: tuple[IntArray, ...] = tuple(map(expand, places))

    @classmethod
    def of(cls, architecture: Architecture) -> "Plan":
        """The plan of an architecture; kept with it, as its cached properties are."""
        plan: Plan | None = vars(architecture).get("_cutting_plan")
        if plan is None:
            plan = vars(architecture)["_cutting_plan"] = cls(architecture)
        return plan

    def select(self, architecture: Architecture, kept: Mapping[str, Units]) -> list[Selection | None]:
        """What stays along each of :attr:`ids`, from kept units by group name; None where everything does."""
        keep = architecture.keep(kept)
        return [Selection.of(keep[ids]) for ids in self.ids]


def cut(tensor: Tensor, axes: Mapping[int, Selection], values: Selection | None = None) -> Tensor:
    """A new tensor of the same kind (parameter or not) and memory format, with the entries that stay.

    Args:
        tensor: What is cut; not touched.
        axes: What stays, by dimension.
        values: For a channel map: what stays of the channels that its values point into.
    """
    data = _keep(tensor.detach(), list(axes.items()))
    if values is not None:
        data = _renumbered(data, values)
    if not isinstance(tensor, nn.Parameter):
        return data.requires_grad_(tensor.requires_grad)
    kind = type(tensor) if issubclass(type(tensor), nn.Parameter) else nn.Parameter
    return kind(data, tensor.requires_grad)


def _keep(tensor: Tensor, axes: list[tuple[int, Selection]]) -> Tensor:
    """The entries that stay, in memory of their own."""
    if not tensor.is_contiguous():  # channels last, say: cut it in the order in which it lies in memory
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        lying = tensor.permute(order).contiguous()
        return _keep(lying, [(order.index(dim), selection) for dim, selection in axes]).permute(
            [order.index(dim) for dim in range(tensor.dim())]
        )
    scattered = []
    for dim, selection in axes:
        if selection.start is None:
            scattered.append((dim, selection))
        else:
            tensor = tensor.narrow(dim, selection.start, len(selection.positions))
    if not scattered:
        return tensor.clone(memory_format=torch.contiguous_format)
    scattered.sort(key=lambda item: item[1].effort(item[0]))
    return _gather(tensor, [(dim, selection.positions.to(tensor.device)) for dim, selection in scattered])


def _gather(tensor: Tensor, positions: list[tuple[int, Tensor]]) -> Tensor:
    """Entries by their positions along each dimension, cut in this order.

    A large tensor is cut some rows at a time: with large intermediate results the process more often gives its memory back
    to the system and has to fetch it again, which takes longer than the copying.
    """
    (first, rows), *rest = positions
    if first or not rest or tensor.numel() <= PIECE or tensor.device.type != "cpu":
        for dim, chosen in positions:
            tensor = tensor.index_select(dim, chosen)
        return tensor
    shape = list(tensor.shape)
    for dim, chosen in positions:
        shape[dim] = len(chosen)
    result = tensor.new_empty(shape)
    height = max(1, PIECE // tensor[0].numel())
    for some, target in zip(torch.split(rows, height), torch.split(result, height), strict=True):
        piece = tensor.index_select(0, some)
        for dim, chosen in rest[:-1]:
            piece = piece.index_select(dim, chosen)
        torch.index_select(piece, *rest[-1], out=target)
    return result


def _renumbered(positions: Tensor, selection: Selection) -> Tensor:
    """A channel map after the cut: its values point into what is left; cut channels become the zero channel at the end."""
    renumbered = np.cumsum(selection.stays) - 1
    renumbered[~selection.stays] = len(selection.positions) - 1
    return torch.from_numpy(renumbered).to(positions.device, positions.dtype)[positions]
