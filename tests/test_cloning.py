import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, weight_norm

from automl_prune.cloning import clone
from automl_prune.networks import NETWORKS


def tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def memory(module: nn.Module) -> set[int]:
    made = (t for t in tensors(module) if not is_lazy(t))
    return {t.untyped_storage().data_ptr() for t in made if t.numel()}


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "squeezenet1_0"])
def test_a_network_is_copied_as_deepcopy_copies_it(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS.get(name).build(10)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
    model[0].eval() if isinstance(model, nn.Sequential) else next(model.children()).eval()
    before = copy.deepcopy(model.state_dict())
    ours, theirs = clone(model), copy.deepcopy(model)
    for a, b in zip(ours.modules(), theirs.modules(), strict=True):
        assert type(a) is type(b)
        assert list(vars(a)) == list(vars(b))
        assert a.extra_repr() == b.extra_repr()
        assert a.training == b.training
    for (key, a_), (other, b_) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (key, a_.requires_grad, a_.stride()) == (other, b_.requires_grad, b_.stride())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
        assert torch.equal(value, before[key])
    assert not memory(ours) & memory(model)


class Kept(nn.Module):
    """Everything that people keep on a module."""

    lost: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.again = self.first
        self.register_buffer("lost", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.blocks = nn.ModuleList([self.first, nn.ReLU()])
        self.scales = nn.ParameterList([torch.zeros(2), torch.ones(2)])
        self.named = nn.ModuleDict({"one": nn.Conv1d(1, 1, 1)})
        self.by_name: dict[str, Any] = {"first": self.first, "scale": self.scales[0], "view": self.lost[:1]}
        self.order = [self.second, (self.first, 3), {"a", "b"}]
        self.constant = torch.arange(3)
        self.alias = self.constant[1:]
        self.shape = (1, 2, torch.float32)
        self.itself = [self]
        self.empty: dict[str, int] = {}
        self.same_empty = self.empty


def test_what_was_shared_stays_shared() -> None:
    original = Kept()
    copied = clone(original)
    assert isinstance(copied, Kept)
    assert copied.second.weight is copied.first.weight
    assert copied.again is copied.first
    assert copied.blocks[0] is copied.first
    assert copied.by_name["first"] is copied.first
    assert copied.by_name["scale"] is copied.scales[0]
    assert copied.by_name["view"].untyped_storage().data_ptr() == copied.lost.untyped_storage().data_ptr()
    assert copied.order[0] is copied.second
    assert copied.order[1] == (copied.first, 3)
    assert copied.order[2] == {"a", "b"}
    assert copied.order[2] is not original.order[2]
    assert copied.alias.untyped_storage().data_ptr() == copied.constant.untyped_storage().data_ptr()
    assert copied.constant.untyped_storage().data_ptr() != original.constant.untyped_storage().data_ptr()
    assert copied.itself[0] is copied
    assert copied.empty is copied.same_empty
    assert copied.empty is not original.empty
    assert not memory(copied) & memory(original)
    assert list(copied.state_dict()) == list(original.state_dict())
    assert "lost" not in copied.state_dict()


def double(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


class Counting(nn.Module):
    """A module whose own method is its hook."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls = nn.Linear(2, 2), 0
        self.register_forward_hook(self.count)
        self.body.register_forward_hook(functools.partial(double))

    def count(self, _module: nn.Module, _inputs: Any, _output: Tensor) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def test_hooks_are_copied_and_belong_to_the_copy() -> None:
    original = Counting()
    copied = clone(original)
    assert isinstance(copied, Counting)
    x = torch.ones(1, 2)
    assert torch.equal(copied(x), original(x))
    copied(x)
    assert (original.calls, copied.calls) == (1, 2)
    copied.body.register_forward_hook(double)
    assert len(original.body._forward_hooks) == 1


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.copied_by = inner, "nobody"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Own":
        new = Own(copy.deepcopy(self.inner, memo))
        new.copied_by = "itself"
        return new


class Stateful(nn.Module):
    """Leaves something out of its state, and puts it back."""

    def __init__(self) -> None:
        super().__init__()
        self.handle: object = object()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.handle = "new"


def test_modules_that_say_how_they_are_copied_are_asked() -> None:
    shared = nn.Linear(2, 2)
    copied = clone(nn.ModuleDict({"shared": shared, "own": Own(shared), "state": Stateful()}))
    assert isinstance(copied, nn.ModuleDict)
    own, state = copied["own"], copied["state"]
    assert isinstance(own, Own)
    assert own.copied_by == "itself"
    assert own.inner is copied["shared"]
    assert isinstance(state, Stateful)
    assert state.handle == "new"


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return weight_norm(nn.Linear(3, 4))


SPECIAL: dict[str, Callable[[], nn.Module]] = {
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(3, 4)).eval(),
    "computed weight": weight_normed,
    "fx": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())),
    "recurrent": lambda: nn.LSTM(3, 2, num_layers=2, bidirectional=True),
    "lazy": lambda: nn.LazyLinear(4),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_modules_work_after_the_copy(kind: str) -> None:
    torch.manual_seed(0)
    original = SPECIAL[kind]()
    copied = clone(original)
    assert not memory(copied) & memory(original)
    x = torch.randn(2, 3)
    if kind == "lazy":
        assert copied(x).shape == (2, 4)
        assert isinstance(original, nn.LazyLinear), "the copy's first pass made the original"
        return
    ours, theirs = copied(x), original(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    (ours[0] if isinstance(ours, tuple) else ours).sum().backward()
    assert all(p.grad is not None for p in copied.parameters())
    assert all(p.grad is None for p in original.parameters())


def test_copies_that_exist_are_used() -> None:
    original = nn.Linear(2, 2)
    smaller = nn.Parameter(torch.zeros(1, 2))
    copied = clone(original, {id(original.weight): smaller})
    assert copied.get_parameter("weight") is smaller


LEAVES = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans(), st.binary(max_size=2), st.just(nn.ReLU))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict),
        st.tuples(inner, inner),
        st.frozensets(st.integers(), max_size=3),
        st.sets(st.integers(), max_size=3),
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_attributes_are_equal_and_their_containers_new(value: Any) -> None:
    original = nn.Identity()
    vars(original).update(value=value, twice=[value, value])
    copied = vars(clone(original))
    assert copied["value"] == value
    assert type(copied["value"]) is type(value)
    assert copied["twice"][0] is copied["twice"][1] is copied["value"]
    if isinstance(value, list | dict | set):
        assert copied["value"] is not value
