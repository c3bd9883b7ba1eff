"""A PruningNet's parts, without training it to any end."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor, nn

from automl_prune import cost, trace
from automl_prune.architecture import Architecture
from automl_prune.costs.counting import counted_macs
from automl_prune.evaluation.hypernetwork import KernelMaker, PruningNet, draw, leading, width_tuples
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.slicing import materialise


class Mobile(nn.Module):
    """A stem, an inverted residual block with a depthwise convolution, a biased convolution, and a flattened classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.expand, self.norm1 = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depth, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.project, self.norm3 = nn.Conv2d(12, 8, 1, bias=False), nn.InstanceNorm2d(8, affine=True)
        self.last = nn.Conv2d(8, 6, 3, 2, 1)
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        y = F.relu(self.norm2(self.depth(F.relu(self.norm1(self.expand(x))))))
        x = self.last(F.relu(x + self.norm3(self.project(y))))
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Channels of two convolutions side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(10), nn.Conv2d(10, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        x = torch.cat([a, self.b(F.relu(a))], dim=1)
        return self.head(self.c(F.relu(self.norm(x))).mean((2, 3)))  # type: ignore[no-any-return]


NETS = {"mobile": (Mobile, (3, 8, 8)), "dense": (Dense, (3, 8, 8)), "digits_resnet": (None, (1, 8, 8))}


def made(name: str, *, affine: bool = False, frozen: tuple[str, ...] = ()) -> tuple[PruningNet, tuple[int, ...]]:
    kind, shape = NETS[name]
    torch.manual_seed(0)
    full = kind() if kind else NETWORKS.get(name).build(10)
    architecture = trace(full, torch.zeros(1, *shape))
    space = ChannelSpace.of(architecture, frozen=frozen)
    return PruningNet(full, architecture, dict(zip(space.names, space.choices, strict=True)), affine=affine), shape


def loss_of(net: PruningNet, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    net.widths = draw(net.choices, rng)
    logits = net(torch.randn(16, *shape))
    assert isinstance(logits, Tensor)
    return F.cross_entropy(logits, torch.randint(5, (16,)))


@pytest.mark.parametrize("name", NETS)
def test_weights_are_leading_slices_of_what_the_makers_put_out(name: str) -> None:
    """MP-1, for 200 random vectors: as cut kernels are shaped, and differing only by what the makers are told."""
    net, _ = made(name)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for number in range(200):
            widths = draw(net.choices, rng)
            tensors = net.tensors(widths)
            for key, maker in net.makers.items():
                assert isinstance(maker, KernelMaker)
                kernel = tensors[key.replace("/", ".")]
                whole = maker(net.ratios(maker.groups, widths))
                if name != "dense":  # there the second convolution's inputs come in two pieces
                    assert torch.equal(kernel, whole[tuple(map(slice, kernel.shape))])
            if number % 20 == 0:
                cut = materialise(net.full, net.architecture, leading(net.architecture, widths))
                assert {n: p.shape for n, p in cut.named_parameters()} == {n: t.shape for n, t in tensors.items()}


def test_pieces_of_several_groups_are_cropped_one_by_one() -> None:
    net, _ = made("dense")
    kernel = net.tensors({"a": 2, "b": 3})["c.weight"]
    maker = net.get_submodule("makers.c/weight")
    whole = maker(net.ratios(("a", "b", "c"), {"a": 2, "b": 3}))
    assert torch.equal(kernel, whole[:, [0, 1, 6, 7, 8]])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("affine", [False, True])
def test_the_candidate_computes_what_the_pruning_net_does(name: str, affine: bool) -> None:
    net, shape = made(name, affine=affine)
    rng = np.random.default_rng(1)
    for _ in range(10):
        net.widths = draw(net.choices, rng)
        images, candidate = torch.randn(4, *shape), net.candidate(net.widths)
        assert all(p.requires_grad for p in candidate.parameters())
        assert torch.equal(candidate.train()(images), net.train()(images))
        predicted = cost(net.architecture, net.widths)
        assert counted_macs(candidate, shape) == predicted["macs"], "MP-3"
        assert sum(p.numel() for p in candidate.parameters()) == predicted["params"]


@pytest.mark.parametrize("name", NETS)
def test_every_maker_learns_and_what_was_not_used_does_not(name: str) -> None:
    """MP-2: over 50 random steps every weight gets a gradient; in a step the channels left out get none."""
    net, shape = made(name, affine=True)
    rng = np.random.default_rng(2)
    touched: set[str] = set()
    for _ in range(50):
        net.zero_grad()
        loss_of(net, shape, rng).backward()  # type: ignore[no-untyped-call]
        touched |= {n for n, p in net.weights().items() if p.grad is not None and bool(p.grad.any())}
        for key, maker in net.makers.items():
            assert isinstance(maker, KernelMaker)
            rows = net.tensors(net.widths)[key.replace("/", ".")].shape[0]
            bias = maker.second.bias.grad
            assert isinstance(bias, Tensor)
            unused = bias.view(maker.shape)[rows:]
            assert not bool(unused.any())
    assert touched == set(net.weights())


def test_blocks_are_told_what_comes_in_the_middle_and_what_goes_out() -> None:
    told = width_tuples(*_searched("mobile"))
    assert set(told["expand.weight"]) == set(told["depth.weight"]) == set(told["project.weight"]) == {"stem", "expand"}
    assert told["stem.weight"] == ("stem",), "the first convolution is told its own width alone"
    resnet = width_tuples(*_searched("digits_resnet"))
    assert set(resnet["layer1.0.conv2.weight"]) == {"conv1", "layer1.0.conv1"}
    assert set(resnet["layer2.0.conv1.weight"]) == {"conv1", "layer2.0.conv1", "layer2.0.conv2"}


def test_what_no_searched_width_touches_is_an_ordinary_weight() -> None:
    net, _ = made("mobile", frozen=("stem", "last"))
    assert set(net.makers) == {"expand/weight", "depth/weight", "project/weight"}
    assert {"full.stem.weight", "full.last.weight", "full.head.weight"} <= set(net.weights())


def test_norms_have_no_weights_or_their_own_for_each_width() -> None:
    plain, _ = made("mobile")
    assert not any("norm1" in name for name in plain.weights())
    assert {"full.norm3.weight", "full.last.bias"} <= set(plain.weights()), "other norms and biases are shared"
    net, _ = made("mobile", affine=True)
    with torch.no_grad():
        net.get_parameter("scales.norm1/weight")[2] = 7.0
    wide, three = net.tensors({"expand": 12}), net.tensors({"expand": 3})
    assert three["norm1.weight"].tolist() == [7.0] * 3
    assert wide["norm1.weight"].tolist() == [1.0] * 12


def test_widths_are_drawn_uniformly_and_frozen_groups_stay_whole() -> None:
    """MP-9."""
    net, _ = made("digits_resnet", frozen=("layer3.0.conv2",))
    rng = np.random.default_rng(3)
    drawn = [draw(net.choices, rng) for _ in range(4000)]
    assert "layer3.0.conv2" not in drawn[0]
    assert net.tensors(drawn[0])["linear.weight"].shape == (10, 64)
    for group, choices in net.choices.items():
        counts = np.bincount([d[group] for d in drawn], minlength=max(choices) + 1)[list(choices)]
        assert chisquare(counts).pvalue > 1e-4, group


def test_the_first_kernels_are_as_wide_as_an_initialised_network_s() -> None:
    net, _ = made("digits_resnet")
    for key in net.makers:
        name = key.replace("/", ".")
        whole = net.tensors({})[name]
        assert float(whole.detach().std()) == pytest.approx(float(net.full.get_parameter(name).std()), rel=1e-3)


class MobileNetV1(nn.Module):
    """Thirteen separable blocks (Howard et al. 2017), for its costs alone."""

    def __init__(self) -> None:
        super().__init__()
        widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        self.stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, a, 3, s, 1, groups=a, bias=False), nn.Conv2d(a, b, 1, bias=False))
                for a, b, s in zip(widths, widths[1:], strides, strict=False)
            )
        )
        self.head = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("rotated", "millions"), [(False, 313.209), (True, 311.664)])
def test_the_published_mobilenet_v1(rotated: bool, millions: float) -> None:
    """MP-3, also as built: the vector as the search means it, and rotated as the released evaluation builds it (M1)."""
    ids = [28, 18, 10, 23, 23, 22, 22, 13, 17, 28, 17, 25, 29]
    ids = [ids[-1], *ids[:-1]] if rotated else ids
    architecture = trace(MobileNetV1(), torch.zeros(1, 3, 224, 224))
    names = ["stem", *(f"blocks.{i}.1" for i in range(12))]
    widths = {n: math.floor(architecture.group(n).width * (10 + 3 * i) / 100) for n, i in zip(names, ids, strict=True)}
    assert round(cost(architecture, widths)["macs"] / 1e6, 3) == millions
    built = materialise(MobileNetV1(), architecture, leading(architecture, widths))
    assert counted_macs(built, (3, 224, 224)) == cost(architecture, widths)["macs"]
    told = width_tuples(architecture, names)
    assert set(told["blocks.5.1.weight"]) >= {"blocks.4.1", "blocks.5.1"}, "at least what comes in and what goes out"


def _searched(name: str) -> tuple[Architecture, list[str]]:
    net, _ = made(name)
    return net.architecture, list(net.choices)
