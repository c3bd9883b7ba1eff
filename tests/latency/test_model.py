"""What a network takes besides its layers' tables."""

import numpy as np
import pytest
import torch
from torch import nn

import automl_prune
from automl_prune.latency.model import LatencyModel
from automl_prune.latency.signatures import layers_alike
from automl_prune.latency.table import LatencyTable
from automl_prune.space import ChannelSpace

SIZE = 8 * 8


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    """Of three convolutions, 3 to 64 to 32 to 32 channels, whose tables are all 1 ms; the first two groups are searched."""
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 32, 1)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * SIZE, 10))
    architecture = automl_prune.trace(network, torch.zeros(1, 3, 8, 8))
    space = ChannelSpace(("0", "1"), (tuple(range(1, 65)), tuple(range(1, 33))))
    tables = {}
    for alike in layers_alike(architecture, space):
        inputs, outputs = ([int(x) for x in part] for part in alike.reachable(space))
        tables[alike.signature] = LatencyTable.of(alike.signature, {(i, o): 1.0 for i in inputs for o in outputs})
    return LatencyModel(architecture, space, tables)


def features(model: LatencyModel, first: int, second: int) -> dict[str, float]:
    names = (*model.kinds, "activations", "turned", "unturned", "weights", "constant")
    return dict(zip(names, model.features(np.array([[first, second]]))[0], strict=True))


def test_tables_are_summed_by_kind(model: LatencyModel) -> None:
    found = features(model, 64, 32)
    assert (found["conv"], found["pointwise"], found["linear"], found["constant"]) == (2.0, 1.0, 1.0, 1.0)


def test_outputs_are_turned_where_a_layer_and_its_consumer_compute_in_different_layouts(model: LatencyModel) -> None:
    assert features(model, 64, 32)["turned"] == 0
    assert features(model, 20, 12)["turned"] == 0, "multiples of 4, and fewer than 16"
    plain = features(model, 18, 32)["turned"], features(model, 18, 30)["turned"], features(model, 64, 30)["turned"]
    # the first computes in blocks, then the second and the third do not; what the last puts out is taken in blocks
    assert plain[0] / plain[1] == pytest.approx((18 + 32) / (18 + 32))
    assert plain[2] / plain[1] == pytest.approx((30 + 32) / (18 + 32))


def test_a_layer_by_itself_is_turned_back_and_forth_only_if_it_computes_in_blocks(model: LatencyModel) -> None:
    blocked, plain = features(model, 64, 32)["unturned"], features(model, 64, 18)["unturned"]
    first, second, third = 64, 64 + 32, 32 + 32  # the first takes three channels in as they are
    assert plain / blocked == pytest.approx((first + 64 + 18) / (first + second + third))
    assert blocked < 0, "what is not turned in a network is taken off"


def test_weights_are_those_of_all_layers(model: LatencyModel) -> None:
    whole = 9 * 3 * 64 + 9 * 64 * 32 + 32 * 32 + 32 * SIZE * 10
    assert features(model, 64, 32)["weights"] == 1
    assert features(model, 10, 7)["weights"] == pytest.approx((9 * 3 * 10 + 9 * 10 * 7 + 7 * 32 + 32 * SIZE * 10) / whole)


def test_no_network_takes_less_than_nothing(model: LatencyModel) -> None:
    """What is taken off where layers compute in blocks may come to more than all that is added."""
    widths = np.array([[first, second] for first in range(32, 65, 4) for second in (24, 28, 32)])
    model.fit(widths, np.linspace(2.0, 3.0, len(widths)))
    model.factors = np.array([0.1, 0.1, 0.1, 0.0, 0.0, 5.0, 0.0, 0.0])
    assert (model.features(np.array([[64, 32]])) @ model.factors)[0] < 0
    assert model(np.array([[64, 32]]))[0] == pytest.approx(2.0 / 4)


def test_factors_are_found_again(model: LatencyModel) -> None:
    rng = np.random.default_rng(0)
    widths = np.stack([rng.integers(1, 65, 40), rng.integers(1, 33, 40)], axis=1)
    features = model.features(widths)
    true = np.array([0.8, 1.0, 0.5, 2.0, 1.5, 0.7, 0.4, 0.3])
    model.fit(widths, features @ true)
    assert model(widths) == pytest.approx(features @ true, rel=0.02)
