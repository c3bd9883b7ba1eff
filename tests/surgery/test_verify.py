import dataclasses
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from automl_prune import prune
from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import Axis, Layer, Run, compress
from automl_prune.architecture.model import Tensor as Described
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.errors import TraceError
from automl_prune.messages import first_line
from automl_prune.networks import NETWORKS
from automl_prune.surgery.verify import admit, check_costs, verify


class HardCoded(nn.Module):
    """Sizes written into the forward pass: cutting ``first`` would break it, cutting ``second`` would not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).reshape(x.shape[0], 8, x.shape[2], x.shape[3])
        return self.third(self.second(y))  # type: ignore[no-any-return]


class Sly(nn.Module):
    """Answers something else once its first layer is narrower, which no tracer can see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y if y.shape[1] == 8 else y + 1)  # type: ignore[no-any-return]


def test_what_does_not_run_is_frozen_with_its_reason() -> None:
    architecture = admit(HardCoded(), torch.zeros(1, 3, 4, 4))
    assert (architecture.group("first").frozen or "").startswith("the program names its size: reshape of the smaller")
    assert architecture.group("second").frozen is None


def test_what_would_be_wrong_is_frozen() -> None:
    architecture = admit(Sly(), torch.zeros(1, 3, 4, 4))
    assert (architecture.group("first").frozen or "").startswith("cutting differs from zeroing by ")


def test_a_users_wrong_cut_is_refused() -> None:
    with pytest.raises(TraceError, match=r"Sly cannot be cut to \{'first': 5\}: cutting differs from zeroing by "):
        prune(Sly(), torch.zeros(1, 3, 4, 4), {"first": 5})


def test_every_group_of_a_sound_network_stays_free() -> None:
    network = NETWORKS.get("resnet20")
    model = network.build(10)
    architecture = trace(model, torch.zeros(1, *network.input_shape))
    assert verify(model, architecture, torch.zeros(1, *network.input_shape)) == architecture


class Hidden(nn.Module):
    """A convolution with a computed kernel: its cost follows from no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        kernel = torch.ones(1, y.shape[1], 1, 1) * 0.1
        return self.second(y) + torch.nn.functional.conv2d(y, kernel)  # type: ignore[no-any-return]


def test_constant_products_are_counted_and_what_feeds_them_is_frozen() -> None:
    architecture = admit(Hidden(), torch.zeros(1, 3, 4, 4))
    assert "conv2d" in (architecture.group("first").frozen or "")
    assert architecture.fixed_macs == 8 * 16


# A sound description is damaged on purpose; whoever is touched by the damage must be found, and nobody else.

IMAGE = torch.zeros(1, 3, 6, 6)
NUMBERS = count()


class Branched(nn.Module):
    """Two branches with everything that is per channel, concatenated, then a residual pair and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.act = nn.PReLU(6)
        self.block, self.skip = nn.Conv2d(12, 10, 1), nn.Conv2d(12, 10, 1, bias=False)
        self.scale = nn.Parameter(torch.full((10, 1, 1), 1e-6))
        self.head = nn.Linear(10, 4)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.act(self.left(x)), self.right(x).relu()], 1)
        x = self.skip(x) + self.scale * self.block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


Axes = dict[str, dict[int, tuple[str, ...]]]


def describe(model: nn.Module, widths: dict[str, int], axes: Axes, layers: tuple[str, ...] = ()) -> Architecture:
    """A description by hand: the groups along each axis of each tensor; "input" and "out" are frozen."""
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def axis(tensor: Tensor, dim: int, groups: tuple[str, ...]) -> Axis:
        role = "scale" if tensor.dim() != 4 and tensor.dim() != 2 else ("out", "in")[dim]
        return Axis(dim, role, tuple(Run(starts[g], widths[g]) for g in groups))

    return Architecture(
        input_shape=(3, 6, 6),
        groups=tuple(
            ChannelGroup(name, width, width, starts[name], (), name if name in ("input", "out") else None)
            for name, width in widths.items()
        ),
        layers=tuple(Layer(name, "conv", f"{name}.weight", 1 if name == "head" else 36) for name in layers),
        tensors=tuple(
            Described(
                name,
                tuple(tensors[name].shape),
                tuple(axis(tensors[name], dim, groups) for dim, groups in each.items()),
                isinstance(tensors[name], nn.Parameter),
            )
            for name, each in axes.items()
        ),
    )


def branched(model: Branched) -> Architecture:
    vectors = {
        "stem": ["stem.0.bias", "stem.1.weight", "stem.1.bias", "stem.1.running_mean", "stem.1.running_var"],
        "left": ["left.bias", "act.weight"],
        "right": ["right.bias"],
        "trunk": ["block.bias", "scale"],
        "out": ["head.bias"],
    }
    weights: Axes = {
        "stem.0.weight": {0: ("stem",), 1: ("input",)},
        "left.weight": {0: ("left",), 1: ("stem",)},
        "right.weight": {0: ("right",), 1: ("stem",)},
        "block.weight": {0: ("trunk",), 1: ("left", "right")},
        "skip.weight": {0: ("trunk",), 1: ("left", "right")},
        "head.weight": {0: ("out",), 1: ("trunk",)},
    }
    return describe(
        model,
        {"input": 3, "stem": 8, "left": 6, "right": 6, "trunk": 10, "out": 4},
        weights | {name: {0: (group,)} for group, names in vectors.items() for name in names},
        layers=("stem.0", "left", "right", "block", "skip", "head"),
    )


def ids(architecture: Architecture, tensor: str, dim: int, change: Callable[[Any], Any]) -> Architecture:
    """The description with the ids of one axis changed."""

    def axes(t: Any) -> Any:
        return tuple(dataclasses.replace(a, runs=compress(change(a.ids()))) if a.dim == dim else a for a in t.axes)

    tensors = tuple(dataclasses.replace(t, axes=axes(t)) if t.name == tensor else t for t in architecture.tensors)
    assert tensors != architecture.tensors
    return dataclasses.replace(architecture, tensors=tensors)


def without(architecture: Architecture, tensor: str) -> Architecture:
    return dataclasses.replace(architecture, tensors=tuple(t for t in architecture.tensors if t.name != tensor))


def swapped(first: int, second: int) -> Callable[[Any], Any]:
    def change(found: Any) -> Any:
        found = found.copy()
        found[[first, second]] = found[[second, first]]
        return found

    return change


def frozen(before: Architecture, after: Architecture) -> dict[str, str]:
    """Groups that only the second description freezes, with their reasons."""
    free = {g.name for g in before.free_groups}
    return {g.name: g.frozen for g in after.groups if g.frozen and g.name in free}


def group_of(architecture: Architecture, tensor: str, dim: int = 0) -> str:
    found = architecture.axis_ids[tensor, dim]
    return str(architecture.groups[architecture.owner[found[0]]].name)


@pytest.fixture(scope="module")
def sound() -> tuple[nn.Module, Architecture]:
    torch.manual_seed(0)
    model = Branched()
    architecture = branched(model)
    assert verify(model, architecture, IMAGE) == architecture
    return model, architecture


@pytest.mark.parametrize(
    ("tensor", "dim"),
    [
        ("stem.0.weight", 0),
        ("stem.0.bias", 0),
        ("stem.1.weight", 0),
        ("stem.1.bias", 0),
        ("stem.1.running_mean", 0),
        ("stem.1.running_var", 0),
        ("left.weight", 1),
        ("act.weight", 0),
        ("block.weight", 1),
        ("scale", 0),
        ("block.bias", 0),
        ("head.weight", 1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_two_swapped_ids_are_found(sound: tuple[nn.Module, Architecture], tensor: str, dim: int, seed: int) -> None:
    model, architecture = sound
    damaged = ids(architecture, tensor, dim, swapped(0, 1))
    assert set(frozen(architecture, verify(model, damaged, IMAGE, seed=seed))) == {group_of(architecture, tensor, dim)}


@pytest.mark.parametrize("tensor", ["stem.0.bias", "stem.1.running_var", "right.bias", "act.weight", "scale"])
def test_a_forgotten_member_is_found(sound: tuple[nn.Module, Architecture], tensor: str) -> None:
    model, architecture = sound
    found = frozen(architecture, verify(model, without(architecture, tensor), IMAGE))
    assert set(found) == {group_of(architecture, tensor)}
    assert next(iter(found.values())).startswith("the smaller network does not run: ")


def test_a_shifted_concatenation_touches_both_of_its_parts(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    damaged = ids(architecture, "block.weight", 1, lambda found: np.roll(found, 1))
    found = frozen(architecture, verify(model, damaged, IMAGE))
    assert set(found) == {group_of(architecture, "left.weight"), group_of(architecture, "right.weight")}


def test_groups_that_were_not_united_are_both_found(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    united = architecture.group(group_of(architecture, "block.weight"))
    extra = dataclasses.replace(united, name="extra", start=architecture.units)
    damaged = dataclasses.replace(architecture, groups=(*architecture.groups, extra))
    damaged = ids(damaged, "skip.weight", 0, lambda found: found - united.start + extra.start)
    assert set(frozen(damaged, verify(model, damaged, IMAGE))) == {united.name, "extra"}


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), FrozenBatchNorm2d(8)]
)
def test_every_normalisation_tells(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 4, 1))
    per_channel: Axes = {
        name: {0: ("hidden",)} for name in ("0.bias", *(f"1.{n}" for n in norm.state_dict() if "num" not in n))
    }
    architecture = describe(
        model,
        {"input": 3, "hidden": 8, "out": 4},
        per_channel | {"0.weight": {0: ("hidden",), 1: ("input",)}, "3.weight": {0: ("out",), 1: ("hidden",)}},
    )
    assert not frozen(architecture, verify(model, architecture, IMAGE))
    for tensor in norm.state_dict():
        if "num" not in tensor:
            damaged = ids(architecture, f"1.{tensor}", 0, swapped(0, -1))
            assert set(frozen(architecture, verify(model, damaged, IMAGE))) == {"hidden"}, tensor


class Halves(nn.Module):
    """Cuts its channels in the middle: halves of different widths would get each other's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return self.left(left) + self.right(right)  # type: ignore[no-any-return]


def test_halves_that_are_right_only_when_they_are_equal_are_not_believed() -> None:
    model = Halves()
    per_channel: Axes = {"first.bias": {0: ("a", "b")}, "left.bias": {0: ("out",)}, "right.bias": {0: ("out",)}}
    architecture = describe(
        model,
        {"input": 3, "a": 8, "b": 8, "out": 4},
        per_channel
        | {
            "first.weight": {0: ("a", "b"), 1: ("input",)},
            "left.weight": {0: ("out",), 1: ("a",)},
            "right.weight": {0: ("out",), 1: ("b",)},
        },
    )
    assert set(frozen(architecture, verify(model, architecture, IMAGE))) == {"a", "b"}


class Conspiring(nn.Module):
    """Wrong only when two certain layers are both narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(6))
        self.conspirators = [self.layers[1], self.layers[4]]
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        narrow = all(len(next(layer.parameters())) < 8 for layer in self.conspirators)
        return self.last(x) + (1.0 if narrow else 0.0)  # type: ignore[no-any-return]


def test_groups_that_are_wrong_only_together_are_found_together() -> None:
    model = Conspiring()
    names = ["input", *(f"layers.{i}" for i in range(6)), "out"]
    modules = [f"layers.{i}" for i in range(6)] + ["last"]
    weights: Axes = {f"{m}.weight": {0: (names[i + 1],), 1: (names[i],)} for i, m in enumerate(modules)}
    biases: Axes = {f"{m}.bias": {0: (names[i + 1],)} for i, m in enumerate(modules)}
    architecture = describe(model, dict(zip(names, [3, *[8] * 6, 2], strict=True)), weights | biases)
    found = frozen(architecture, verify(model, architecture, IMAGE))
    assert set(found) == {"layers.1", "layers.4"}
    assert found["layers.1"].startswith("exact alone, but not together with layers.4: cutting differs from zeroing by ")


def test_what_is_not_proven_in_time_is_frozen(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    after = verify(model, architecture, IMAGE, seconds=0)
    assert not after.free_groups
    assert set(frozen(architecture, after).values()) == {"not proven within the 0 s of its verification"}


class Packed(NamedTuple):
    logits: Tensor
    more: dict[str, list[Tensor]]


@dataclasses.dataclass
class Answer:
    packed: Packed
    label: Tensor
    note: str = "text"


class Packing(Branched):
    """Its answer is nested; only the innermost tensor comes from all channels."""

    def forward(self, x: Tensor) -> Answer:  # type: ignore[override]
        logits = super().forward(x)
        return Answer(Packed(torch.zeros(1), {"deep": [logits]}), logits.argmax(1))


def test_answers_are_unpacked_however_they_are_packed(sound: tuple[nn.Module, Architecture]) -> None:
    _, architecture = sound
    model = Packing()
    assert verify(model, architecture, IMAGE) == architecture
    damaged = ids(architecture, "head.weight", 1, swapped(0, 1))
    assert set(frozen(architecture, verify(model, damaged, IMAGE))) == {group_of(architecture, "head.weight", 1)}


class Answering(nn.Module):
    """Branched, with its answer changed by a function."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.change = Branched(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (torch.zeros_like, "hardly depends on its input"),
        (lambda x: x + 1e6, "hardly depends on its input"),
        (lambda x: x / 0, "not finite"),
        (lambda x: x + next(NUMBERS), "differently each time"),
        (lambda x: x.argmax(1), "no tensor of real numbers"),
        (lambda x: None, "no tensor of real numbers"),
    ],
)
def test_what_proves_nothing_is_refused(
    sound: tuple[nn.Module, Architecture], change: Callable[[Tensor], Any], said: str
) -> None:
    with pytest.raises(TraceError, match=f"Answering cannot be verified: with random weights, .*{said}"):
        verify(Answering(change), Architecture((3, 6, 6), (), (), ()), IMAGE)


def test_the_network_is_not_touched(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    verify(model.train(), architecture, IMAGE)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_folders_of_this_machine_are_not_told() -> None:
    error = RuntimeError("/home/me/net/model.py:3: shapes 1/2 and a/b differ\nmore")
    assert first_line(error) == "model.py:3: shapes 1/2 and a/b differ"


def test_groups_whose_price_is_wrong_are_frozen(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    twice = {layer.name: layer.positions * (2 if layer.name == "left" else 1) for layer in architecture.layers}
    layers = tuple(dataclasses.replace(layer, positions=twice[layer.name]) for layer in architecture.layers)
    damaged = dataclasses.replace(architecture, layers=layers)
    assert check_costs(model, architecture) == architecture
    found = frozen(architecture, check_costs(model, damaged))
    assert set(found) == {group_of(architecture, "left.weight"), group_of(architecture, "left.weight", 1)}
    assert all(reason.startswith("its cost does not follow from the widths: ") for reason in found.values())


def test_groups_whose_size_is_wrong_are_frozen(sound: tuple[nn.Module, Architecture]) -> None:
    model, architecture = sound
    tensors = tuple(
        dataclasses.replace(t, learned=t.learned or t.name == "stem.1.running_mean") for t in architecture.tensors
    )
    damaged = dataclasses.replace(architecture, tensors=tensors)
    found = frozen(architecture, after := check_costs(model, damaged))
    assert set(found) == {group_of(architecture, "stem.0.weight")}
    assert found["stem"].startswith("its cost does not follow from the widths: ")
    assert found["stem"].endswith(" in the smaller network")
    assert CostModel(after).one()["params"] == sum(p.numel() for p in model.parameters())
