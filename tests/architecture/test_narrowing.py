"""A cut network is a network: cutting twice is cutting once, and its description costs what it costs."""

import pytest
import torch
from torch import nn

from automl_prune.architecture.narrowing import composed, narrowed
from automl_prune.costs import METRICS, CostModel
from automl_prune.errors import WidthError
from automl_prune.surgery.slicing import materialise
from tests.architecture.exactness import random_units, widths_of
from tests.architecture.test_zoo import admitted
from tests.architecture.zoo import ZOO


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items() if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize("name", ZOO)
def test_cutting_twice_is_cutting_once(name: str) -> None:
    model, architecture = admitted(name)
    for seed in range(2):
        kept = random_units(architecture, seed)
        small = narrowed(architecture, kept)
        further = random_units(small, seed + 10)
        twice = materialise(materialise(model, architecture, kept), small, further)
        assert same(twice, materialise(model, architecture, composed(kept, further)))


@pytest.mark.parametrize("name", ZOO)
def test_it_costs_what_the_cut_network_costs(name: str) -> None:
    _, architecture = admitted(name)
    kept = random_units(architecture, 3)
    expected = CostModel(architecture).one(widths_of(architecture, kept))
    found = CostModel(narrowed(architecture, kept)).one()
    assert {m: found[m] for m in METRICS} == pytest.approx({m: expected[m] for m in METRICS})


def test_what_is_not_named_stays_whole() -> None:
    _, architecture = admitted(next(iter(ZOO)))
    assert narrowed(architecture, {}) == architecture
    assert composed({"a": [0, 2, 5]}, {}) == {"a": [0, 2, 5]}
    assert composed({"a": [0, 2, 5]}, {"a": [1, 2], "b": [3]}) == {"a": [2, 5], "b": [3]}


def test_a_cut_network_cannot_be_widened_again() -> None:
    _, architecture = admitted(next(iter(ZOO)))
    group = max(architecture.free_groups, key=lambda g: g.units)
    small = narrowed(architecture, {group.name: [0]})
    with pytest.raises(WidthError):
        small.resolve({group.name: group.width})
