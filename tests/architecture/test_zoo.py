"""Every network of the zoo: admitted, as free as it can be, and exact at any legal width, or frozen with its reason."""

import copy
import functools
import json
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.tracing import trace
from automl_prune.errors import TraceError
from automl_prune.surgery.slicing import materialise
from automl_prune.surgery.verify import admit
from tests.architecture.exactness import (
    TOLERANCE,
    check_macs,
    check_sizes,
    check_whole,
    narrowest_units,
    random_units,
    randomise,
    relative_error,
    run,
    silenced,
    widths_of,
    zeroed,
)
from tests.architecture.zoo import ZOO


@functools.cache
def admitted(name: str) -> tuple[nn.Module, Architecture]:
    """A network with weights that would show a wrong index, and what admission says of it."""
    model = randomise(ZOO[name].build())
    return model, admit(model, ZOO[name].example())


def groups_of(architecture: Architecture, name: str) -> list[ChannelGroup]:
    """The groups of what a layer (or a bare parameter) puts out."""
    tensors = [t for t in architecture.tensors if t.name == name or t.name.startswith(f"{name}.")]
    ids = [a.ids() for t in tensors for a in t.axes if a.role != "in"]
    return [architecture.groups[i] for i in np.unique(architecture.owner[np.concatenate(ids)])] if ids else []


@pytest.mark.parametrize("name", ZOO)
def test_what_is_free_and_what_is_frozen(name: str) -> None:
    _, architecture = admitted(name)
    for layer in ZOO[name].free:
        found = groups_of(architecture, layer)
        assert found, f"{layer} is in no group"
        assert {g.name: g.frozen for g in found if g.frozen} == {}
    for layer, pattern in ZOO[name].frozen.items():
        for group in groups_of(architecture, layer):
            assert group.frozen is not None, f"{group.name} must be frozen"
            assert re.search(pattern, group.frozen), f"{group.name}: {group.frozen!r} does not say {pattern!r}"


@pytest.mark.parametrize("name", ZOO)
def test_cutting_is_exact_at_any_legal_width(name: str) -> None:
    model, architecture = admitted(name)
    inputs = ZOO[name].example(seed=1)
    for kept in (narrowest_units(architecture), *(random_units(architecture, seed) for seed in range(4))):
        small = materialise(model, architecture, kept)
        found = run(small, inputs)
        error = relative_error(found, run(zeroed(model, architecture, kept), inputs))
        assert error <= TOLERANCE, f"not the network with these channels cleared: {widths_of(architecture, kept)}"
        if ZOO[name].silent:
            with silenced(model, architecture, kept) as quiet:
                error = relative_error(found, run(quiet, inputs))
            assert error <= TOLERANCE, f"not the network whose producers are silent: {widths_of(architecture, kept)}"
        check_sizes(model, architecture, kept, small)
        check_macs(architecture, kept, small, inputs)


@pytest.mark.parametrize("name", ZOO)
def test_full_widths_are_bit_identical(name: str) -> None:
    model, architecture = admitted(name)
    inputs = ZOO[name].example(seed=1)
    check_whole(model, architecture, inputs, run(model, inputs))


@pytest.mark.parametrize("name", ZOO)
def test_the_users_module_and_input_are_untouched(name: str) -> None:
    model, example = ZOO[name].build().train(), ZOO[name].example()
    first = next(model.parameters())
    first.requires_grad_(False)
    state, given = copy.deepcopy(model.state_dict()), example.clone()
    objects = {key: id(value) for key, value in [*model.named_parameters(), *model.named_buffers()]}
    architecture = admit(model, example)
    materialise(model, architecture, random_units(architecture, 0))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert {key: id(value) for key, value in [*model.named_parameters(), *model.named_buffers()]} == objects
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(example, given)


@pytest.mark.parametrize("name", ZOO)
def test_the_architecture_survives_json(name: str) -> None:
    _, architecture = admitted(name)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize("name", ZOO)
def test_every_frozen_group_has_a_reason_one_can_read(name: str) -> None:
    _, architecture = admitted(name)
    assert all(g.frozen is None or 4 < len(g.frozen) < 300 for g in architecture.groups)


def test_the_oracles_see_a_wrong_cut() -> None:
    """Other channels than those that were cut: both oracles must object."""
    model, architecture = admitted("residual")
    inputs = ZOO["residual"].example()
    right = {g.name: np.arange(2) for g in architecture.free_groups}
    wrong = {g.name: np.arange(1, 3) for g in architecture.free_groups}
    found = run(materialise(model, architecture, right), inputs)
    assert relative_error(found, run(zeroed(model, architecture, wrong), inputs)) > 0.01
    with silenced(model, architecture, wrong) as quiet:
        assert relative_error(found, run(quiet, inputs)) > 0.01


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x + y)  # type: ignore[no-any-return]


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("left out")


REFUSED = {
    "two_inputs": (TwoInputs(), "TwoInputs.*forward"),
    "failing": (Failing(), "Failing.*left out"),
    "not_yet_built": (nn.Sequential(nn.LazyConv2d(4, 1), nn.Conv2d(4, 2, 1)), "(?i)lazy|uninitiali[sz]ed"),
    "wrong_shape": (nn.Conv2d(4, 4, 1), r"Conv2d.*\[2, 3, 8, 8\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_a_reason(name: str) -> None:
    model, pattern = REFUSED[name]
    with pytest.raises(TraceError, match=pattern):
        trace(model, torch.zeros(2, 3, 8, 8))
