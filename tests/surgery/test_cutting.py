import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import Axis, Run, Tensor
from automl_prune.surgery import cutting
from automl_prune.surgery.cutting import Plan, Selection, cut

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@st.composite
def cuts(draw: st.DrawFn) -> tuple[torch.Tensor, dict[int, list[int]]]:
    """A tensor and the positions that stay along some of its axes, at least one along each."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tensor = torch.arange(float(np.prod(shape))).reshape(shape)
    if draw(st.booleans()):
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    dims = draw(st.sets(st.integers(0, len(shape) - 1)))
    return tensor, {d: sorted(draw(st.sets(st.integers(0, tensor.shape[d] - 1), min_size=1))) for d in dims}


def selections(tensor: torch.Tensor, kept: dict[int, list[int]]) -> dict[int, Selection]:
    found = {d: Selection.of(np.isin(np.arange(tensor.shape[d]), positions)) for d, positions in kept.items()}
    return {d: selection for d, selection in found.items() if selection is not None}


@given(cuts(), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_a_cut_keeps_what_numpy_would(case: tuple[torch.Tensor, dict[int, list[int]]], piece: int) -> None:
    tensor, kept = case
    expected = tensor.numpy()
    for dim, positions in kept.items():
        expected = expected.take(positions, axis=dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE", piece)  # tensors this small are otherwise cut at once
        result = cut(tensor, selections(tensor, kept))
    assert np.array_equal(result.numpy(), expected)
    assert result.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kept", [{0: [1, 3]}, {1: [0, 1]}, {0: [0, 1], 1: [2, 3]}, {0: [0, 3], 1: [0, 2]}])
def test_the_memory_format_stays(layout: str, kept: dict[int, list[int]]) -> None:
    tensor = torch.randn(4, 4, 3, 3).to(memory_format=LAYOUTS[layout])
    assert cut(tensor, selections(tensor, kept)).is_contiguous(memory_format=LAYOUTS[layout])


class Marked(nn.Parameter):
    """A parameter of a class of its own."""


def test_a_parameter_stays_one_of_its_class() -> None:
    frozen = Marked(torch.arange(4.0), requires_grad=False)
    half = cut(frozen, selections(frozen, {0: [1, 2]}))
    assert type(half) is Marked
    assert not half.requires_grad
    buffer = torch.arange(4.0).requires_grad_()
    cut_buffer = cut(buffer, selections(buffer, {0: [1, 2]}))
    assert type(cut_buffer) is torch.Tensor
    assert cut_buffer.requires_grad
    assert cut_buffer.is_leaf


@pytest.mark.parametrize(("kept", "effort_of_rows_is_less"), [((0.5, 0.5), True), ((0.9, 0.1), False), ((0.65, 0.6), True)])
def test_the_cheaper_order_is_chosen(kept: tuple[float, float], effort_of_rows_is_less: bool) -> None:
    rows, columns = (Selection.of(np.arange(100) % 10 < 10 * share) for share in kept)
    assert rows is not None
    assert columns is not None
    assert (rows.effort(0) < columns.effort(1)) is effort_of_rows_is_less


def test_tensors_with_the_same_channels_share_their_ids_and_the_plan_is_made_once() -> None:
    scale = (Axis(0, "scale", (Run(0, 4),)),)
    architecture = Architecture(
        input_shape=(1,),
        groups=(ChannelGroup("g", 4, 4, 0, ("norm",)),),
        layers=(),
        tensors=(Tensor("norm.weight", (4,), scale), Tensor("norm.bias", (4,), scale)),
    )
    plan = Plan.of(architecture)
    assert len(plan.ids) == 1
    assert Plan.of(architecture) is plan
    assert plan.select(architecture, {}) == [None]
    (chosen,) = plan.select(architecture, {"g": [1, 2]})
    assert chosen is not None
    assert (chosen.positions.tolist(), chosen.start) == ([1, 2], 1)
    assert Architecture.from_json(architecture.to_json()) == architecture
