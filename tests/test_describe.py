"""A described space accounts for every group, and its numbers are those of the space and of the cost model."""

import json

import pytest
from torch import nn, zeros

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.describe import compact, describe
from automl_prune.granularity import Override
from automl_prune.space import ChannelSpace


@pytest.fixture(scope="module")
def network() -> Architecture:
    layers = (nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 24, 3, groups=4), nn.ReLU(), nn.Conv2d(24, 16, 1))
    return trace(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), zeros(1, 3, 16, 16))


def test_every_group_is_searched_or_says_why_not(network: Architecture) -> None:
    space = ChannelSpace.of(network, round_to=8, frozen=["4"])
    cost = CostModel(network, space.names)
    found = describe(network, space, cost)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [g["name"] for g in found["groups"]] == [g.name for g in network.groups]
    assert all(g["searched"] == (g["frozen"] is None) == (g["kept_by"] is None) for g in found["groups"])
    totals, counts = found["totals"], [part["count"] for part in found["kept_whole"]]
    assert totals["groups"] == len(network.groups) == totals["searched"] + totals["frozen"]
    assert totals["searched"] == len(space)
    assert totals["frozen"] == sum(counts) == sum(totals["frozen_by"].values())
    assert all(part["count"] == len(part["groups"]) for part in found["kept_whole"])
    assert found["base"] == CostModel(network).one()
    assert found["narrowest"] == cost.one(space.widths(space.narrowest))


def test_a_group_is_told_with_its_divisor_its_layers_and_its_widths(network: Architecture) -> None:
    space = ChannelSpace.of(network, overrides=[Override("4", widths=(2, 5))])
    groups = {g["name"]: g for g in describe(network, space, CostModel(network, space.names))["groups"]}
    assert groups["2"]["divisor"] == 4
    assert groups["2"]["widths"] == {"min": 4, "max": 24, "count": 6, "step": 4}
    assert groups["4"]["widths"] == {"min": 2, "max": 16, "count": 3, "step": None, "list": [2, 5, 16]}
    assert (groups["4"]["producers"], groups["4"]["members"]) == (["4"], ["4", "7"])
    assert (groups["4"]["width"], groups["4"]["full_width"], groups["4"]["narrowest"], groups["4"]["choices"]) == (
        16,
        16,
        2,
        3,
    )


def test_an_empty_space_is_described_too(network: Architecture) -> None:
    space = ChannelSpace.of(network, frozen=["*"], allow_empty=True)
    found = describe(network, space, CostModel(network, space.names))
    assert (found["totals"]["searched"], found["log10_size"]) == (0, 0)
    assert found["base"] == found["narrowest"] == CostModel(network).one()


def test_widths_are_compact_where_one_step_leads_through_them() -> None:
    assert compact((7,)) == {"min": 7, "max": 7, "count": 1, "step": None}
    assert compact(range(8, 65, 8)) == {"min": 8, "max": 64, "count": 8, "step": 8}
    assert compact((8, 16, 20)) == {"min": 8, "max": 20, "count": 3, "step": None, "list": [8, 16, 20]}
