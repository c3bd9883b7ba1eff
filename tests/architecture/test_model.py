import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.architecture import Architecture, Run
from automl_prune.architecture.model import compress, expand
from automl_prune.architecture.tracing import trace
from automl_prune.errors import UnknownNameError, WidthError
from automl_prune.networks import NETWORKS


@pytest.fixture(scope="module")
def resnet20() -> Architecture:
    return trace(NETWORKS.get("resnet20").build(10), torch.zeros(1, 3, 32, 32))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=40))
def test_runs_are_lossless(ids: list[int]) -> None:
    array = np.array(ids, dtype=np.int64)
    assert expand(compress(array)).tolist() == ids


def test_runs_are_short_where_it_matters() -> None:
    assert compress(np.arange(64)) == (Run(0, 64, 1),)
    assert compress(np.repeat(np.arange(5, 8), 49)) == (Run(5, 3, 49),)


def test_json_both_ways(resnet20: Architecture) -> None:
    assert Architecture.from_json(json.loads(json.dumps(resnet20.to_json()))) == resnet20


def test_unknown_group_names_the_nearest(resnet20: Architecture) -> None:
    with pytest.raises(UnknownNameError, match=r"layer1\.0\.conv9.*did you mean.*layer1\.0\.conv1"):
        resnet20.group("layer1.0.conv9")


@pytest.mark.parametrize("width", [0, -1, 17, 2.5])
def test_widths_out_of_range_are_refused(resnet20: Architecture, width: int) -> None:
    with pytest.raises(WidthError, match=r"layer1\.0\.conv1.*allowed: 1 to 16"):
        resnet20.resolve({"layer1.0.conv1": width})


def test_frozen_groups_say_why(resnet20: Architecture) -> None:
    with pytest.raises(WidthError, match=r"frozen at 10 .network output."):
        resnet20.resolve({"linear": 5})


def test_layer_names_resolve_to_their_group(resnet20: Architecture) -> None:
    assert resnet20.resolve({"layer1.2.conv2": 8}) == {"conv1": 8}


def test_contradictory_widths_of_one_group_are_refused(resnet20: Architecture) -> None:
    with pytest.raises(WidthError, match="already got 8"):
        resnet20.resolve({"layer1.2.conv2": 8, "conv1": 9})


def test_producers_put_out_the_group(resnet20: Architecture) -> None:
    assert resnet20.producers["conv1"] == ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2")
    assert resnet20.producers["layer1.0.conv1"] == ("layer1.0.conv1",)
