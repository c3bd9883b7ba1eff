"""Blocks are the layers that they stand for: same positions, same MACs, few of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import automl_prune
from automl_prune.costs import CostModel
from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.signatures import layers_alike
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.space import ChannelSpace

NETWORKS = {"resnet56": (10, 6), "resnet18": (1000, 12), "mobilenet_v2": (1000, 16)}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, TracedNetwork]:
    return request.param, TracedNetwork.registered(request.param, NETWORKS[request.param][0])


def test_layers_share_few_signatures_and_none_is_left_out(network: tuple[str, TracedNetwork]) -> None:
    name, traced = network
    alike = layers_alike(traced.architecture, ChannelSpace.of(traced.architecture))
    assert len(alike) == NETWORKS[name][1]
    assert sum(len(a.layers) for a in alike) == len(traced.architecture.layers)


def test_their_macs_add_up_to_the_networks(network: tuple[str, TracedNetwork]) -> None:
    architecture = network[1].architecture
    space = ChannelSpace.of(architecture)
    rng = np.random.default_rng(0)
    widths = space.snap_all(np.array(space.full.widths) * rng.uniform(0.2, 1, (5, len(space))))
    total = np.zeros(5)
    positions = {layer.name: layer.positions for layer in architecture.layers}
    for alike in layers_alike(architecture, space):
        inputs, outputs = alike.widths_of(widths)
        kernel = math.prod(alike.signature.kernel)
        each = kernel * outputs * (1 if alike.signature.tied else inputs)
        total += (each * [positions[name] for name in alike.layers]).sum(axis=1)
    assert total.tolist() == CostModel(architecture, space.names)(widths)["macs"].tolist()


def test_a_block_takes_in_and_gives_what_its_layer_does(network: tuple[str, TracedNetwork]) -> None:
    architecture = network[1].architecture
    positions = {layer.name: layer.positions for layer in architecture.layers}
    for alike in layers_alike(architecture, ChannelSpace.of(architecture)):
        block = alike.signature.at(8, 8)
        with torch.inference_mode():
            out = block.build()(torch.zeros(1, *block.input_shape))
        assert out.numel() == 8 * positions[alike.layers[0]]


def test_groups_and_dilation_are_those_of_the_layers() -> None:
    layers = [
        nn.Conv2d(8, 16, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4, stride=2), nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ConvTranspose2d(16, 16, 3, padding=1),
    ]  # fmt: skip
    architecture = automl_prune.trace(nn.Sequential(*layers), torch.zeros(1, 8, 12, 12))
    alike = layers_alike(architecture, ChannelSpace.of(architecture))
    found = {a.layers[0]: a.signature for a in alike}
    assert set(found) == {"0", "3", "4"}, "the transposed one has no block of its own"
    assert (found["0"].dilation, found["0"].padding, found["0"].groups) == ((2, 2), (2, 2), 1)
    assert (found["3"].groups, found["3"].stride, found["4"].kind, found["4"].groups) == (4, (2, 2), "depthwise", 1)
    full = np.array([ChannelSpace.of(architecture).full.widths])
    for a in alike:
        inputs, outputs = (int(w[0, 0]) for w in a.widths_of(full))
        block, layer = a.signature.at(inputs, outputs), layers[int(a.layers[0])]
        built = next(m for m in block.build().modules() if isinstance(m, nn.Conv2d))
        wanted = ("in_channels", "out_channels", "groups", "dilation", "kernel_size", "stride", "padding")
        assert [getattr(built, name) for name in wanted] == [getattr(layer, name) for name in wanted]
        assert int(a.signature.weights(*(np.array(w) for w in (inputs, outputs)))) == built.weight.numel()


def test_a_block_travels_as_json_and_has_the_same_weights_everywhere() -> None:
    again = Block.from_json(REFERENCE.to_json())
    assert again == REFERENCE
    state = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(again.build().parameters(), REFERENCE.build().parameters(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("change", [{"kind": "pickle"}, {"inputs": -1}, {"outputs": "8"}, {"size": []}, {"more": 1}])
def test_what_is_no_block_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        Block.from_json(REFERENCE.to_json() | change)
