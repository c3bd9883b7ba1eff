import copy

import numpy as np
import pytest
import torch
from torch import nn

from automl_prune import prune as prune_module
from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import Axis, Run, Tensor
from automl_prune.architecture.tracing import trace
from automl_prune.errors import UnknownNameError, UserError, WidthError
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.slicing import kept_channels, materialise, prune
from automl_prune.surgery.verify import masked
from search_spaces.cifar_resnet import CifarResNet

FAMILIES = {
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "cifar_vgg16_bn": (3, 32, 32),
    "resnet18": (3, 64, 64),
    "resnet50": (3, 64, 64),
    "mobilenet_v2": (3, 64, 64),
    "vgg16_bn": (3, 32, 32),
    "squeezenet1_0": (3, 64, 64),
}


def make(name: str) -> tuple[nn.Module, Architecture, torch.Tensor]:
    torch.manual_seed(0)
    model = NETWORKS.get(name).build(10).eval()
    x = torch.randn(2, *FAMILIES[name], generator=torch.Generator().manual_seed(1))
    return model, trace(model, x), x


def random_widths(architecture: Architecture, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {g.name: int(rng.integers(1, g.units + 1)) * g.divisor for g in architecture.free_groups}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    """Full widths are bit-identical, random widths run, obtained = requested, cutting zeroed channels changes nothing."""
    model, architecture, x = make(name)
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        logits = model(x)
        assert torch.equal(prune(model, architecture, {})(x), logits)
        widths = random_widths(architecture, 2)
        small = prune(model, architecture, widths, "l2")
        assert small(x).shape == logits.shape
    for layer in architecture.layers:
        kept = small.get_submodule(layer.name)
        names = [g for g, layers in architecture.producers.items() if layer.name in layers]
        expected = sum(widths.get(g, architecture.group(g).width) for g in names)
        assert getattr(kept, "out_channels", getattr(kept, "out_features", None)) == expected
    rng = np.random.default_rng(3)
    kept_units = {
        g.name: np.sort(rng.choice(g.units, max(1, g.units // 2), replace=False)) for g in architecture.free_groups
    }
    with torch.inference_mode():
        zeroed = masked(model, architecture, kept_units)
        full, cut = zeroed(x), materialise(zeroed, architecture, kept_units)(x)
    torch.testing.assert_close(cut, full, rtol=1e-5, atol=1e-5 * float(full.abs().max()))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "the argument was touched"


def test_coupled_members_share_their_indices() -> None:
    model, architecture, _ = make("resnet20")
    for index, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.constant_(module.bias, float(index))
    kept = {"conv1": np.array([0, 3, 15]), "layer1.0.conv1": np.array([1, 2])}
    small = materialise(model, architecture, kept)
    full, cut = dict(model.named_parameters()), dict(small.named_parameters())
    stage = kept["conv1"]
    assert torch.equal(cut["conv1.weight"], full["conv1.weight"][stage])
    for block in range(3):
        assert torch.equal(cut[f"layer1.{block}.bn2.weight"], full[f"layer1.{block}.bn2.weight"][stage])
    inner = kept["layer1.0.conv1"]
    assert torch.equal(cut["layer1.0.conv1.weight"], full["layer1.0.conv1.weight"][inner][:, stage])
    assert torch.equal(cut["layer1.0.conv2.weight"], full["layer1.0.conv2.weight"][stage][:, inner])
    assert torch.equal(cut["layer2.0.conv1.weight"], full["layer2.0.conv1.weight"][:, stage])
    assert kept_channels(architecture, kept)["layer1.2.conv2"] == [0, 3, 15]


def test_the_channel_map_of_a_shortcut_is_renumbered() -> None:
    model, architecture, _ = make("resnet20")
    small = materialise(model, architecture, {"conv1": np.array([0, 3, 15]), "layer2.0.conv2": np.array([7, 8, 11, 23, 24])})
    # Stage 2 takes its channels 8 … 23 from channels 0 … 15 of stage 1; 3 now stands for zero.
    assert small.get_buffer("layer2.0.shortcut.source").tolist() == [3, 0, 1, 2, 3]


def test_training_goes_on_after_the_cut() -> None:
    model, architecture, x = make("resnet20")
    small = prune(model.train(), architecture, random_widths(architecture, 5))
    assert small.training
    small(x).sum().backward()
    assert all(p.grad is not None and p.requires_grad for p in small.parameters())


def test_candidates_of_a_space_are_accepted() -> None:
    model, architecture, _x = make("resnet20")
    space = ChannelSpace.of(architecture, round_to=4)
    small = prune(model, architecture, space.uniform(0.5), space=space)
    assert small.get_parameter("conv1.weight").shape[0] == 8


def test_depthwise_convolutions_keep_one_group_per_channel() -> None:
    model, architecture, _x = make("mobilenet_v2")
    small = prune(model, architecture, {"features.2.conv.0.0": 40})
    layer = small.get_submodule("features.2.conv.1.0")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (40, 40, 40)


def test_names_and_widths_are_checked() -> None:
    model, architecture, _ = make("resnet20")
    with pytest.raises(UnknownNameError, match="nowhere"):
        prune(model, architecture, {"nowhere": 3})
    with pytest.raises(WidthError, match="allowed: 1 to 16"):
        prune(model, architecture, {"conv1": 40})


def test_prune_without_a_service_on_a_users_module() -> None:
    model, _, x = make("squeezenet1_0")
    small = prune_module(model, x[:1], {"features.0": 30, "features.3.squeeze": 5}, "fpgm")
    assert small.get_parameter("features.0.weight").shape[0] == 30
    assert small.get_parameter("features.3.expand3x3.weight").shape[1] == 5


class Grouped(nn.Module):
    """Groups of four channels, cut down to one channel each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("first", "middle"), [(2, 8), (8, 2), (2, 2), (4, 6)])
def test_grouped_convolutions_keep_their_groups(first: int, middle: int) -> None:
    small = prune_module(Grouped(), torch.zeros(1, 3, 4, 4), {"first": first, "middle": middle})
    layer = small.get_submodule("middle")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (2, first, middle)
    assert small(torch.zeros(1, 3, 4, 4)).shape == (1, 2, 4, 4)


class Tied(nn.Module):
    """Two layers with one weight, and an activation that only looks like a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(2 ** self.second(self.first(x)))  # type: ignore[no-any-return]


def test_tied_weights_and_powers_are_not_mistaken() -> None:
    architecture = trace(Tied(), torch.zeros(1, 4, 4, 4))
    assert architecture.free_groups == ()
    assert any("pow" in (g.frozen or "") or "network input" in (g.frozen or "") for g in architecture.groups)


def test_the_argument_stays_as_it_was_and_shares_no_memory() -> None:
    model, architecture, _x = make("mobilenet_v2")
    model.train()
    model.get_submodule("features.1").eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = {name: (value.clone(), value.requires_grad) for name, value in every_tensor(model).items()}
    modes = [module.training for module in model.modules()]
    one = architecture.free_groups[0].name  # most tensors stay whole and must be copied all the same
    for widths in ({}, {one: architecture.group(one).divisor}, random_widths(architecture, 4)):
        small = prune(model, architecture, widths)
        after = every_tensor(small)
        taken = {t.untyped_storage().data_ptr() for t in every_tensor(model).values()}
        assert not taken & {t.untyped_storage().data_ptr() for t in after.values()}
        assert {name: t.requires_grad for name, t in after.items()} == {name: r for name, (_, r) in before.items()}
        assert [module.training for module in small.modules()] == modes
        with torch.no_grad():
            for t in after.values():
                t.zero_()
    now = every_tensor(model)
    assert all(torch.equal(now[name], value) and now[name].requires_grad == r for name, (value, r) in before.items())
    assert [module.training for module in model.modules()] == modes


def every_tensor(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class Twins(nn.Module):
    """Two depthwise convolutions with one weight, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.right = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.right.weight, self.alias = self.left.weight, self.right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alias(self.right(self.left(x)))  # type: ignore[no-any-return]


def test_every_layer_with_a_tied_weight_knows_its_size() -> None:
    groups = (ChannelGroup("g", 4, 4, 0, ("left", "right")),)
    tensors = (Tensor("left.weight", (4, 1, 1, 1), (Axis(0, "out", (Run(0, 4),)),)),)
    small = materialise(Twins(), Architecture((4, 2, 2), groups, (), tensors), {"g": [1, 3]})
    assert isinstance(small, Twins)
    assert small.right.weight is small.left.weight
    assert small.alias is small.right
    assert (small.left.groups, small.right.groups) == (2, 2)
    assert small(torch.ones(1, 2, 2, 2)).shape == (1, 2, 2, 2)


def test_a_module_that_was_not_traced_is_refused() -> None:
    _, architecture, _x = make("resnet20")
    wider = CifarResNet(3, 10, widths=(20, 32, 64))
    with pytest.raises(UserError, match=r"'conv1\.weight' has the shape \[20, 3, 3, 3\]; expected \[16, 3, 3, 3\]"):
        materialise(wider, architecture, {"conv1": [0]})
    with pytest.raises(UserError, match=r"'conv1\.weight' is missing"):
        materialise(nn.Linear(2, 2), architecture, {"conv1": [0]})
