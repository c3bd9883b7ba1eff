"""Activation memory by widths is what a run of the cut module shows."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.networks import NETWORKS
from automl_prune.surgery.slicing import prune
from tests.architecture.zoo import ZOO, conv
from tests.costs.peak import peak_mb

READS_VALUES = {"branch_on_values", "number_taken_out"}
"""Programs that need their weights, which the oracle does without."""
CUT_ONLY_AFTER_ADMISSION = {"branch_on_width", "computed_kernel", "slice_by_written_size", "view_with_a_written_size"}
"""Programs that run otherwise, or not at all, once they are cut: admission freezes them, tracing alone does not."""


def check(model: nn.Module, sample: Tensor, draws: int) -> None:
    """The module's own peak, whole and at ``draws`` random widths."""
    architecture = trace(model, sample)
    cost, rng = CostModel(architecture), np.random.default_rng(0)
    assert cost.one()["activation_mb"] == peak_mb(model, sample)
    for _ in range(draws):
        widths = {g.name: int(rng.integers(1, g.units + 1)) * g.divisor for g in architecture.free_groups}
        assert cost.one(widths)["activation_mb"] == peak_mb(prune(model, architecture, widths, "random"), sample)


SEEN_IN_PARTS = {"recurrent_cell"}
"""The oracle sees one operation, tracing the several that it is made of."""


@pytest.mark.parametrize("name", sorted(ZOO.keys() - READS_VALUES - SEEN_IN_PARTS))
def test_small_networks(name: str) -> None:
    check(ZOO[name].build(), ZOO[name].example(batch=1), 0 if name in CUT_ONLY_AFTER_ADMISSION else 1)


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18", "mobilenet_v2", "densenet121", "vit_b_16", "shufflenet_v2_x1_0", "googlenet"]
)
def test_known_networks(name: str) -> None:
    network = NETWORKS.get(name)
    check(network.build(network.num_classes), torch.zeros(1, *network.input_shape), 2)


class Derived(nn.Module):
    """Positions that are worked on before they are added."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = conv(3, 8, 4, stride=4, padding=0), nn.Linear(8, 4)
        self.places = nn.Parameter(torch.ones(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.tanh(self.places)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(functional.gelu(tokens + places).mean(1))  # type: ignore[no-any-return]


class FourAtOnce(nn.Module):
    """A program that names the size of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), nn.Linear(512, 4)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tanh(self.scale)
        return self.last((self.first(x) * scale).view(4, -1))  # type: ignore[no-any-return]


def test_what_is_made_of_parameters_is_cut_with_them() -> None:
    check(Derived(), torch.zeros(1, 3, 8, 8), 8)


def test_one_sample_is_counted_whatever_the_batch() -> None:
    """The scale does not grow with the batch; both maps and the scale are alive while they are multiplied."""
    cost = CostModel(trace(FourAtOnce(), torch.zeros(4, 3, 8, 8)))
    assert cost.one()["activation_mb"] == 4 * (2 * 512 + 8) / 1e6


@pytest.mark.parametrize(
    ("forward", "entries"),
    [
        (lambda y: y.relu(), 2 * 512),
        (lambda y: y.relu_(), 3 * 64 + 512),
        (lambda y: y + y.mean((2, 3), keepdim=True).expand_as(y), 2 * 512 + 8),
        (lambda y: y * torch.zeros_like(y), 3 * 512),
        (lambda y: y * (y > 0), 3 * 512),
        (lambda y: y.transpose(2, 3).flatten(2), 2 * 512),
        (lambda y: y.flatten(2), 3 * 64 + 512),
    ],
    ids=["result", "in place", "expanded view", "constant", "mask", "copied", "view"],
)
def test_the_convention(forward: object, entries: int) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = conv(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            assert callable(forward)
            return forward(self.first(x))  # type: ignore[no-any-return]

    sample = torch.zeros(1, 3, 8, 8)
    assert CostModel(trace(Network(), sample)).one()["activation_mb"] == 4 * entries / 1e6 == peak_mb(Network(), sample)


def test_a_network_that_does_nothing_costs_its_sample() -> None:
    assert CostModel(trace(nn.Identity(), torch.zeros(1, 3, 4, 4))).one()["activation_mb"] == 4 * 48 / 1e6


def test_a_description_without_activations_costs_none() -> None:
    architecture = trace(ZOO["plain_chain"].build(), ZOO["plain_chain"].example())
    bare = Architecture.from_json({**json.loads(json.dumps(architecture.to_json())), "activations": []})
    assert CostModel(bare).one() == CostModel(architecture).one() | {"activation_mb": 0.0}
