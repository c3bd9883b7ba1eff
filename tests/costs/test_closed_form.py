"""Golden values: published widths, computed by hand-counted convolutions (conv + linear multiply-adds)."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune import cost, trace
from automl_prune.architecture import Architecture
from automl_prune.costs import CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.errors import UnknownNameError
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.slicing import prune
from automl_prune.surgery.verify import check_costs


def traced(name: str) -> Architecture:
    network = NETWORKS.get(name)
    return trace(network.build(network.num_classes), torch.zeros(1, *network.input_shape))


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("resnet20", 40_551_040, 269_722),
        ("resnet56", 125_485_696, 853_018),
        ("resnet110", 252_887_680, 1_727_962),
        ("cifar_vgg16_bn", 313_201_664, 14_728_266),
        ("resnet18", 1_814_073_344, 11_689_512),
        ("resnet50", 4_089_184_256, 25_557_032),
        ("mobilenet_v2", 300_774_272, 3_504_872),
    ],
)
def test_full_networks(name: str, macs: int, params: int) -> None:
    costs = cost(traced(name))
    assert (costs["macs"], costs["flops"], costs["params"]) == (macs, 2 * macs, params)


@pytest.mark.parametrize(
    ("name", "macs_by_code"),
    [
        ("resnet56", {7: 86.410, 5: 62.964, 3: 34.929, 1: 10.839}),
        ("resnet110", {7: 173.999, 5: 126.665, 3: 70.097, 1: 21.456}),
    ],
)
def test_inner_widths_in_tenths(name: str, macs_by_code: dict[int, float]) -> None:
    """ABCPruner's codes: floor(C x code / 10) for the inner width of every block."""
    architecture = traced(name)
    inner = ChannelSpace.of(architecture, frozen=NETWORKS.get(name).preset("published").frozen)
    assert len(inner) == {"resnet56": 27, "resnet110": 54}[name]
    for code, millions in macs_by_code.items():
        widths = {g: architecture.group(g).width * code // 10 for g in inner.names}
        assert cost(architecture, widths)["macs"] / 1e6 == pytest.approx(millions, abs=1e-3)


def test_vgg_widths_in_tenths() -> None:
    architecture = traced("cifar_vgg16_bn")
    for code, millions in {8: 199.526, 5: 78.744, 3: 28.106, 1: 3.102}.items():
        widths = {g.name: g.width * code // 10 for g in architecture.free_groups}
        assert round(cost(architecture, widths)["macs"] / 1e6, 3) == millions


def test_resnet50_inner_widths_at_seven_tenths() -> None:
    architecture = traced("resnet50")
    inner = [g for g in architecture.free_groups if g.name.endswith(("conv1", "conv2")) and g.name.startswith("layer")]
    costs = cost(architecture, {g.name: g.width * 7 // 10 for g in inner})
    assert round(costs["macs"] / 1e6, 3) == 2601.392
    assert round(costs["params"] / 1e6, 3) == 16.945


def test_mobilenet_v2_at_half_of_every_width() -> None:
    architecture = traced("mobilenet_v2")
    widths = {g.name: g.width // 2 for g in architecture.free_groups}
    model = NETWORKS.get("mobilenet_v2").build(1000)
    assert cost(architecture, widths)["macs"] == counted_macs(prune(model, architecture, widths), (3, 224, 224))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "squeezenet1_0", "resnet18"])
def test_random_widths_agree_with_torch_and_with_the_module(name: str) -> None:
    network = NETWORKS.get(name)
    model = network.build(network.num_classes)
    architecture = trace(model, torch.zeros(1, *network.input_shape))
    rng = np.random.default_rng(0)
    for _ in range(3):
        widths = {g.name: int(rng.integers(1, g.units + 1)) * g.divisor for g in architecture.free_groups}
        small = prune(model, architecture, widths, "random")
        costs = cost(architecture, widths)
        assert costs["macs"] == counted_macs(small, network.input_shape)
        assert costs["params"] == sum(p.numel() for p in small.parameters())
        floats = [*small.parameters(), *(b for b in small.buffers() if b.is_floating_point())]
        assert costs["memory_mb"] == 4 * sum(t.numel() for t in floats) / 1e6


def test_a_population_in_one_call_equals_one_by_one() -> None:
    architecture = traced("resnet56")
    space = ChannelSpace.of(architecture)
    rng = np.random.default_rng(1)
    widths = np.stack([[rng.choice(c) for c in space.choices] for _ in range(50)])
    model = CostModel(architecture, space.names)
    together = model(widths)
    for i, row in enumerate(widths):
        alone = model.one(dict(zip(space.names, row.tolist(), strict=True)))
        assert alone == {k: v[i] for k, v in together.items()}


class Mixed(nn.Module):
    """A depthwise convolution of what no cut changes: the products of tokens with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.along, self.head = nn.Linear(16, 16), nn.Conv1d(10, 10, 3, groups=10), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)
        return self.head(self.along(tokens @ tokens.transpose(1, 2)))  # type: ignore[no-any-return]


def test_a_layer_that_no_cut_changes_is_a_constant() -> None:
    """Tracing describes no axis of its weight; admission adds what torch's counter finds of it."""
    model = Mixed()
    architecture = trace(model, torch.zeros(1, 10, 16))
    macs = {"tokens": 10 * 16 * 16, "product": 10 * 16 * 10, "along": 8 * 10 * 3, "head": 10 * 8 * 4}
    assert cost(architecture)["macs"] == sum(macs.values()) - macs["along"]
    assert cost(check_costs(model, architecture))["macs"] == sum(macs.values()) == counted_macs(model, (10, 16))


def test_unknown_groups_are_named() -> None:
    with pytest.raises(UnknownNameError, match="layer9"):
        cost(traced("resnet20"), {"layer9": 3})


@pytest.mark.parametrize(
    ("ids", "millions"),
    [
        ([19, 9, 15, 13, 10, 9, 10, 6, 9, 13, 11, 12, 7, 18, 7, 13, 12, 10, 19, 18], 1027.555),
        ([23, 17, 16, 17, 16, 16, 18, 20, 18, 25, 11, 29, 22, 18, 13, 27, 17, 23, 23, 20], 1989.926),
    ],
)
def test_resnet50_of_metapruning(ids: list[int], millions: float) -> None:
    """Four stage genes (stem and three stages) and one inner gene per block: floor(C x (0.10 + 0.03 id))."""
    architecture = traced("resnet50")
    stages = ["conv1", "layer1.0.conv3", "layer2.0.conv3", "layer3.0.conv3"]
    blocks = [f"layer{s + 1}.{b}" for s, count in enumerate((3, 4, 6, 3)) for b in range(count)]
    genes = dict(zip(stages, ids[:4], strict=True))
    genes |= {f"{block}.conv{c}": gene for block, gene in zip(blocks, ids[4:], strict=True) for c in (1, 2)}
    widths = {name: architecture.group(name).width * (10 + 3 * gene) // 100 for name, gene in genes.items()}
    assert round(cost(architecture, widths)["macs"] / 1e6, 3) == millions
    built = prune(NETWORKS.get("resnet50").build(1000), architecture, widths)
    assert counted_macs(built, (3, 224, 224)) == cost(architecture, widths)["macs"], "MP-3: as built"


@pytest.mark.parametrize(("code", "millions"), [(10, 127.616), (7, 88.217), (5, 64.578), (3, 36.301), (1, 12.015)])
def test_resnet56_as_thop_counts_it(code: int, millions: float) -> None:
    """ABCPruner's convention adds four operations per element that a batch normalisation puts out."""
    architecture = traced("resnet56")
    inner = ChannelSpace.of(architecture, frozen=NETWORKS.get("resnet56").preset("published").frozen)
    widths = {g: architecture.group(g).width * code // 10 for g in inner.names}
    outputs = {layer: widths.get(g, architecture.group(g).width) for g, ls in architecture.producers.items() for layer in ls}
    elements = sum(layer.positions * outputs[layer.name] for layer in architecture.layers if layer.kind == "conv")
    assert (cost(architecture, widths)["macs"] + 4 * elements) / 1e6 == pytest.approx(millions, rel=1e-4)
