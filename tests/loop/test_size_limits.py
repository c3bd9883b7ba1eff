"""Networks and spaces that are too large are refused before anything is computed with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.errors import UserError
from automl_prune.loop.admission import MOST_CHOICES, MOST_GROUPS
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec


@pytest.fixture(scope="module")
def wide() -> Architecture:
    """Of a network with a group of 4,400 channels."""
    modules = (nn.Conv2d(1, 4400, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4400, 10))
    return trace(nn.Sequential(*modules), torch.zeros(1, 1, 8, 8))


def plan_for(architecture: Architecture, tmp_path: Path, **space: Any) -> Any:
    order = {
        "search_space": {"name": "digits_resnet"} | space,
        "dataset": {"name": "digits", "select_size": 300},
        "strategy": {"name": "random"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    }
    roots = Roots(data=tmp_path, weights=tmp_path, cache=tmp_path)
    return make_plan(SearchSpec.parse(order), roots, admit=lambda network, classes, cache: architecture)


def test_a_group_of_too_many_choices_is_refused_at_the_field_that_gave_it_them(wide: Architecture, tmp_path: Path) -> None:
    for space, pointer, advice in (
        ({}, "/search_space/round_to", "Raise round_to from 1 to 2"),
        ({"round_to": 8, "overrides": [{"match": "0", "round_to": 1}]}, "/search_space/overrides/0/round_to", "to 2"),
        ({"overrides": [{"match": "0", "widths": list(range(1, 4097))}]}, "/search_space/overrides/0/widths", "fewer"),
    ):
        said = f"'0' has 4,[0-9]+ widths to choose from; 4,096 is the most.*{advice}"
        with pytest.raises(UserError, match=said) as caught:
            plan_for(wide, tmp_path, **space)
        assert caught.value.pointer == pointer


def test_what_the_advice_says_is_accepted(wide: Architecture, tmp_path: Path) -> None:
    plan = plan_for(wide, tmp_path, round_to=2)
    assert max(map(len, plan.problem.space.choices)) <= MOST_CHOICES


def test_a_network_of_too_many_groups_or_layers_is_refused(wide: Architecture, tmp_path: Path) -> None:
    many = (MOST_GROUPS + 1) // len(wide.groups) + 1
    for huge, what in (
        (replace(wide, groups=wide.groups * many), "groups"),
        (replace(wide, layers=wide.layers[:1] * (MOST_GROUPS + 1)), "layers"),
    ):
        with pytest.raises(UserError, match=f"'digits_resnet' has 4,[0-9]+ {what}; 4,096 is the most") as caught:
            plan_for(huge, tmp_path)
        assert caught.value.pointer == "/search_space/name"
