"""Each kind of layer is cut by a description written by hand, and must then say the sizes of a layer made that small."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture import model as arch
from automl_prune.surgery.slicing import materialise

Axes = dict[int, list[int]]
UNITS = 6


def described(module: nn.Module, axes: dict[str, Axes]) -> Architecture:
    """An architecture with one group of :data:`UNITS` units, from the unit of each entry by tensor and dimension."""
    shapes = {name: tuple(t.shape) for name, t in (*module.named_parameters(), *module.named_buffers())}
    tensors = tuple(
        arch.Tensor(
            name, shapes[name], tuple(arch.Axis(dim, "scale", arch.compress(np.array(ids))) for dim, ids in cut.items())
        )
        for name, cut in axes.items()
    )
    return Architecture((1,), (ChannelGroup("g", UNITS, UNITS, 0, ()),), (), tensors)


U = list(range(UNITS))
KEPT = [0, 2, 3]
PAIRS = [u for u in U for _ in range(2)]
"""Every unit twice in a row: depthwise with multiplier 2, or groups of two channels."""
TWICE = U + U
"""All units once per group: each group loses the same positions."""

CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Axes], Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(6, 4, 3), {"weight": {1: U}}, lambda: nn.Conv1d(3, 4, 3), (1, 3, 5)),
    "conv3d": (
        lambda: nn.Conv3d(2, 6, 1),
        {"weight": {0: U}, "bias": {0: U}},
        lambda: nn.Conv3d(2, 3, 1),
        (1, 2, 2, 2, 2),
    ),
    "depthwise": (
        lambda: nn.Conv2d(6, 6, 3, groups=6),
        {"weight": {0: U}, "bias": {0: U}},
        lambda: nn.Conv2d(3, 3, 3, groups=3),
        (1, 3, 4, 4),
    ),
    "depthwise, multiplier 2": (
        lambda: nn.Conv2d(6, 12, 3, groups=6, bias=False),
        {"weight": {0: PAIRS}},
        lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False),
        (1, 3, 4, 4),
    ),
    "whole groups": (
        lambda: nn.Conv2d(12, 12, 1, groups=6),
        {"weight": {0: PAIRS}, "bias": {0: PAIRS}},
        lambda: nn.Conv2d(6, 6, 1, groups=3),
        (1, 6, 2, 2),
    ),
    "same positions of each group": (
        lambda: nn.Conv2d(12, 12, 1, groups=2),
        {"weight": {0: TWICE, 1: U}, "bias": {0: TWICE}},
        lambda: nn.Conv2d(6, 6, 1, groups=2),
        (1, 6, 2, 2),
    ),
    "inputs of each group": (
        lambda: nn.Conv2d(12, 4, 1, groups=2),
        {"weight": {1: U}},
        lambda: nn.Conv2d(6, 4, 1, groups=2),
        (1, 6, 2, 2),
    ),
    "transposed, outputs": (
        lambda: nn.ConvTranspose1d(2, 6, 2),
        {"weight": {1: U}, "bias": {0: U}},
        lambda: nn.ConvTranspose1d(2, 3, 2),
        (1, 2, 4),
    ),
    "transposed, inputs": (
        lambda: nn.ConvTranspose2d(6, 2, 2),
        {"weight": {0: U}},
        lambda: nn.ConvTranspose2d(3, 2, 2),
        (1, 3, 2, 2),
    ),
    "transposed depthwise": (
        lambda: nn.ConvTranspose3d(6, 6, 1, groups=6),
        {"weight": {0: U}, "bias": {0: U}},
        lambda: nn.ConvTranspose3d(3, 3, 1, groups=3),
        (1, 3, 2, 2, 2),
    ),
    "transposed depthwise, multiplier 2": (
        lambda: nn.ConvTranspose2d(6, 12, 1, groups=6),
        {"weight": {0: U}, "bias": {0: PAIRS}},
        lambda: nn.ConvTranspose2d(3, 6, 1, groups=3),
        (1, 3, 2, 2),
    ),
    "transposed, same positions of each group": (
        lambda: nn.ConvTranspose2d(12, 12, 1, groups=2),
        {"weight": {0: TWICE, 1: U}, "bias": {0: TWICE}},
        lambda: nn.ConvTranspose2d(6, 6, 1, groups=2),
        (1, 6, 2, 2),
    ),
    "linear": (lambda: nn.Linear(12, 6), {"weight": {0: U, 1: PAIRS}, "bias": {0: U}}, lambda: nn.Linear(6, 3), (1, 6)),
    "batch norm": (
        lambda: nn.BatchNorm2d(6).eval(),
        {name: {0: U} for name in ("weight", "bias", "running_mean", "running_var")},
        lambda: nn.BatchNorm2d(3).eval(),
        (1, 3, 2, 2),
    ),
    "batch norm without scale": (
        lambda: nn.BatchNorm1d(6, affine=False).eval(),
        {name: {0: U} for name in ("running_mean", "running_var")},
        lambda: nn.BatchNorm1d(3, affine=False).eval(),
        (1, 3),
    ),
    "instance norm": (
        lambda: nn.InstanceNorm1d(6, affine=True),
        {"weight": {0: U}, "bias": {0: U}},
        lambda: nn.InstanceNorm1d(3, affine=True),
        (1, 3, 4),
    ),
    "group norm": (
        lambda: nn.GroupNorm(6, 12),
        {"weight": {0: PAIRS}, "bias": {0: PAIRS}},
        lambda: nn.GroupNorm(3, 6),
        (1, 6, 2),
    ),
    "layer norm": (
        lambda: nn.LayerNorm([2, 6]),
        {"weight": {1: U}, "bias": {1: U}},
        lambda: nn.LayerNorm([2, 3]),
        (1, 2, 3),
    ),
    "rms norm": (lambda: nn.RMSNorm(6), {"weight": {0: U}}, lambda: nn.RMSNorm(3), (1, 3)),
    "prelu": (lambda: nn.PReLU(6), {"weight": {0: U}}, lambda: nn.PReLU(3), (1, 3)),
    "lstm input": (
        lambda: nn.LSTM(6, 2, num_layers=2, bidirectional=True, batch_first=True),
        {"weight_ih_l0": {1: U}, "weight_ih_l0_reverse": {1: U}},
        lambda: nn.LSTM(3, 2, num_layers=2, bidirectional=True, batch_first=True),
        (1, 4, 3),
    ),
    "lstm projection": (
        lambda: nn.LSTM(6, 4, proj_size=2),
        {"weight_ih_l0": {1: U}},
        lambda: nn.LSTM(3, 4, proj_size=2),
        (4, 1, 3),
    ),
    "gru hidden": (
        lambda: nn.GRU(2, 6),
        {
            "weight_ih_l0": {0: [*U] * 3},
            "weight_hh_l0": {0: [*U] * 3, 1: U},
            "bias_ih_l0": {0: [*U] * 3},
            "bias_hh_l0": {0: [*U] * 3},
        },
        lambda: nn.GRU(2, 3),
        (4, 1, 2),
    ),
    "rnn": (lambda: nn.RNN(6, 2), {"weight_ih_l0": {1: U}}, lambda: nn.RNN(3, 2), (4, 1, 3)),
    "lstm cell": (lambda: nn.LSTMCell(6, 2), {"weight_ih": {1: U}}, lambda: nn.LSTMCell(3, 2), (1, 3)),
}


def sizes(module: nn.Module) -> dict[str, object]:
    """Whatever a module says of itself in numbers."""
    return {k: v for k, v in vars(module).items() if isinstance(v, int | tuple) and not k.startswith("_")}


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", CASES)
def test_sizes_are_those_of_a_layer_made_that_small(kind: str) -> None:
    """… and the forward pass, in which torch itself checks sizes, equals that layer's with the kept entries."""
    torch.manual_seed(0)
    build, axes, build_small, shape = CASES[kind]
    full, expected = build(), build_small()
    small = materialise(full, described(full, axes), {"g": KEPT})
    assert sizes(small) == sizes(expected)
    expected.load_state_dict(small.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(first(small(x)), first(expected(x)), rtol=0, atol=0)
    for name, cut in axes.items():
        kept = full.state_dict()[name]
        for dim, ids in cut.items():
            kept = kept.index_select(dim, torch.from_numpy(np.flatnonzero(np.isin(ids, KEPT))))
        assert torch.equal(small.state_dict()[name], kept)


def test_bilinear_and_embedding() -> None:
    both = nn.ModuleDict({"bilinear": nn.Bilinear(6, 5, 6), "embedding": nn.Embedding(4, 6), "bag": nn.EmbeddingBag(4, 6)})
    axes: dict[str, Axes] = {
        "bilinear.weight": {0: U, 1: U},
        "bilinear.bias": {0: U},
        "embedding.weight": {1: U},
        "bag.weight": {1: U},
    }
    small = materialise(both, described(both, axes), {"g": KEPT})
    assert isinstance(small, nn.ModuleDict)
    assert small["bilinear"](torch.ones(1, 3), torch.ones(1, 5)).shape == (1, 3)
    assert small["embedding"](torch.tensor([3])).shape == (1, 3)
    assert sizes(small["bilinear"]) == sizes(nn.Bilinear(3, 5, 3))
    assert sizes(small["embedding"]) == sizes(nn.Embedding(4, 3))
    assert sizes(small["bag"]) == sizes(nn.EmbeddingBag(4, 3))


def test_a_recurrent_layer_runs_on_its_new_weights() -> None:
    full = nn.LSTM(6, 2)
    small = materialise(full, described(full, {"weight_ih_l0": {1: U}}), {"g": KEPT})
    assert isinstance(small, nn.LSTM)
    names = small._flat_weights_names
    assert all(a is small.get_parameter(n) for a, n in zip(small._flat_weights, names, strict=True))
    x = torch.randn(4, 1, 3)
    before = small(x)[0]
    with torch.no_grad():
        small.get_parameter("weight_ih_l0").zero_()
    assert not torch.equal(small(x)[0], before)


class ChannelsFirst(nn.LayerNorm):
    """A layer norm over the channels of an image, as ConvNeXt has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_subclasses_are_known_by_their_base() -> None:
    norm = ChannelsFirst(6)
    small = materialise(norm, described(norm, {"weight": {0: U}, "bias": {0: U}}), {"g": KEPT})
    assert isinstance(small, ChannelsFirst)
    assert small.normalized_shape == (3,)
    assert small(torch.randn(1, 3, 2, 2)).shape == (1, 3, 2, 2)


def by_hook(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return weight_norm(layer)


REPARAMETRISED: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, Axes]]] = {
    "weight norm": (
        parametrizations.weight_norm,
        {"parametrizations.weight.original0": {0: U}, "parametrizations.weight.original1": {0: U}, "bias": {0: U}},
    ),
    "weight norm by a hook": (by_hook, {"weight_g": {0: U}, "weight_v": {0: U}, "bias": {0: U}}),
    "spectral norm by a hook": (
        lambda layer: spectral_norm(layer).eval(),
        {"weight_orig": {0: U}, "weight_u": {0: U}, "bias": {0: U}},
    ),
}


@pytest.mark.parametrize("kind", REPARAMETRISED)
@pytest.mark.parametrize("nested", [False, True])
def test_reparametrised_layers_are_sized_by_what_they_store(kind: str, nested: bool) -> None:
    wrap, axes = REPARAMETRISED[kind]
    layer = wrap(nn.Conv2d(6, 6, 3, groups=6))
    model = nn.Sequential(nn.ReLU(), layer) if nested else layer
    names = {f"1.{name}" if nested else name: cut for name, cut in axes.items()}
    small = materialise(model, described(model, names), {"g": KEPT})
    conv = small[1] if isinstance(small, nn.Sequential) else small
    assert isinstance(conv, nn.Conv2d)
    assert (conv.groups, conv.in_channels, conv.out_channels) == (3, 3, 3)
    assert small(torch.randn(1, 3, 4, 4)).shape == (1, 3, 2, 2)
