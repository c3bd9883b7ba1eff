"""What holds for the costs of any network, whatever its layers."""

import functools
import gc
import json
import tracemalloc
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.costs import METRICS, CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.errors import UnknownNameError
from automl_prune.networks import NETWORKS
from tests.costs.peak import peak_mb

TRACED = ("resnet20", "mobilenet_v2", "vit_b_16", "densenet121")

laws = settings(max_examples=25, deadline=None, derandomize=True)


@functools.cache
def model_of(name: str) -> tuple[nn.Module, Architecture]:
    network = NETWORKS.get(name)
    model = network.build(network.num_classes)
    return model, trace(model, torch.zeros(1, *network.input_shape))


def cost_of(name: str) -> CostModel:
    return CostModel(model_of(name)[1])


def legal_widths(name: str, seed: int, candidates: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    groups = model_of(name)[1].free_groups
    return np.stack([rng.integers(1, g.units + 1, candidates) * g.divisor for g in groups], axis=1)


names = st.sampled_from(TRACED)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", TRACED)
def test_full_widths_are_the_module_itself(name: str) -> None:
    model, architecture = model_of(name)
    floats = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    macs = counted_macs(model, architecture.input_shape)
    assert CostModel(architecture).one() == {
        "macs": macs,
        "flops": 2 * macs,
        "params": sum(p.numel() for p in model.parameters()),
        "memory_mb": 4 * sum(t.numel() for t in floats) / 1e6,
        "activation_mb": peak_mb(model, torch.zeros(1, *architecture.input_shape)),
    }


@laws
@given(names, seeds, st.data())
def test_wider_never_costs_less(name: str, seed: int, data: st.DataObject) -> None:
    (widths,), groups = legal_widths(name, seed, 1), model_of(name)[1].free_groups
    place = data.draw(st.integers(0, len(groups) - 1))
    wider = widths.copy()
    wider[place] = data.draw(st.sampled_from(range(widths[place], groups[place].width + 1, groups[place].divisor)))
    costs = cost_of(name)(np.stack([widths, wider]))
    for metric, (less, more) in costs.items():
        strict = metric != "activation_mb" and wider[place] > widths[place]
        assert less < more if strict else less <= more, metric


@laws
@given(names, seeds)
def test_groups_without_a_common_tensor_add_up(name: str, seed: int) -> None:
    """What one group costs depends on another only through the tensors that both lie on."""
    architecture, cost = model_of(name)[1], cost_of(name)
    groups, places = architecture.free_groups, np.random.default_rng(seed).permutation(len(architecture.free_groups))
    first = groups[places[0]]
    apart = [i for i in places[1:] if not set(groups[i].members) & set(first.members)]
    (widths,) = legal_widths(name, seed, 1)
    both = np.tile(widths, (4, 1))
    both[[1, 3], places[0]] = first.width
    both[2:, apart[0]] = groups[apart[0]].width
    costs = cost(both)
    for metric in ("params",) if architecture.products else ("macs", "flops", "params"):
        neither, one, other, together = costs[metric]
        assert together - one == other - neither, metric


@laws
@given(names, seeds, st.integers(1, 5))
def test_one_by_one_equals_all_at_once(name: str, seed: int, candidates: int) -> None:
    widths, cost = legal_widths(name, seed, candidates), cost_of(name)
    together = cost(widths)
    for i, row in enumerate(widths.tolist()):
        assert cost.one(dict(zip(cost.names, row, strict=True))) == {k: v[i] for k, v in together.items()}


@laws
@given(names, seeds)
def test_groups_without_a_column_keep_their_width(name: str, seed: int) -> None:
    architecture, (widths,) = model_of(name)[1], legal_widths(name, seed, 1)
    free = {g.name: int(w) for g, w in zip(architecture.free_groups, widths, strict=True)}
    kept = dict(list(free.items())[::2])
    few = CostModel(architecture, list(kept))
    assert few.one(kept) == CostModel(architecture).one(kept)


def test_only_what_is_asked_for_is_worked_out() -> None:
    cost = cost_of("resnet20")
    costs = cost(legal_widths("resnet20", 0, 3))
    assert tuple(costs) == METRICS
    assert len(costs) == len(METRICS)
    assert costs["macs"].shape == (3,)
    assert "_alive" not in vars(cost), "activation memory was worked out, though nobody asked"
    assert costs["activation_mb"].shape == (3,)
    assert "_alive" in vars(cost)
    with pytest.raises(KeyError):
        costs["latency"]


def test_no_candidates_cost_nothing() -> None:
    empty = np.empty((0, len(cost_of("resnet20").names)), dtype=np.int64)
    assert {k: v.shape for k, v in cost_of("resnet20")(empty).items()} == dict.fromkeys(METRICS, (0,))


def test_columns_must_be_groups() -> None:
    with pytest.raises(UnknownNameError, match="layer9"):
        CostModel(model_of("resnet20")[1], ["layer9"])


@pytest.mark.parametrize("name", TRACED)
def test_costs_survive_json(name: str) -> None:
    cost = cost_of(name)
    again = CostModel(Architecture.from_json(json.loads(json.dumps(cost.architecture.to_json()))))
    widths = legal_widths(name, 3, 20)
    for metric, values in cost(widths).items():
        np.testing.assert_array_equal(again(widths)[metric], values)


def perceptron(times: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 20 * times, 3), nn.BatchNorm2d(20 * times), nn.ReLU(), nn.Flatten(), nn.Linear(720 * times, 30 * times)
    )


def reachable(thing: Any) -> Iterator[Any]:
    """Everything that an object refers to, however far."""
    seen, waiting = {id(thing)}, [thing]
    while waiting:
        for item in gc.get_referents(waiting.pop()):
            if id(item) not in seen and not isinstance(item, type | ModuleType | FunctionType):
                seen.add(id(item))
                waiting.append(item)
                yield item


def test_a_description_is_no_larger_for_a_larger_network() -> None:
    """A hundred times the weights: as many characters but for longer numbers, as much memory, and no tensor at all."""
    sample = torch.zeros(1, 3, 8, 8)
    sizes, held = [], []
    trace(perceptron(1), sample)  # what torch keeps after its first run is not the description's
    for times in (1, 10):
        model = perceptron(times)
        gc.collect()
        tracemalloc.start()
        try:
            architecture = trace(model, sample)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        sizes.append(len(json.dumps(architecture.to_json())))
        found = [*reachable(architecture)]
        assert any(item is architecture.tensors[0] for item in found)
        assert not [item for item in found if isinstance(item, torch.Tensor | np.ndarray | nn.Module)]
    assert sizes[1] < 1.1 * sizes[0]
    assert held[1] < 1.5 * held[0] < 200_000
