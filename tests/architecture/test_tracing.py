import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automl_prune import prune
from automl_prune.architecture.tracing import trace, weightless
from automl_prune.errors import TraceError
from automl_prune.networks import NETWORKS

FREE_GROUPS = {
    "resnet20": 12,
    "resnet32": 18,
    "resnet44": 24,
    "resnet56": 30,
    "resnet110": 57,
    "cifar_vgg16_bn": 13,
    "resnet18": 12,
    "resnet50": 37,
    "mobilenet_v2": 25,
    "vgg16_bn": 15,
    "squeezenet1_0": 25,
}


@pytest.mark.parametrize(("name", "count"), FREE_GROUPS.items())
def test_number_of_groups(name: str, count: int) -> None:
    network = NETWORKS.get(name)
    architecture = trace(network.build(network.num_classes), torch.zeros(1, *network.input_shape))
    assert len(architecture.free_groups) == count
    assert {g.frozen for g in architecture.groups} >= {"network input", "network output"}


def test_residual_stages_are_groups_of_their_own() -> None:
    architecture = trace(NETWORKS.get("resnet20").build(10), torch.zeros(1, 3, 32, 32))
    stages = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert {name: architecture.group(name).width for name in stages} == stages
    assert "layer2.0.shortcut" in architecture.group("layer2.0.conv2").members


def test_depthwise_layers_go_with_their_input() -> None:
    network = NETWORKS.get("mobilenet_v2")
    architecture = trace(network.build(1000), torch.zeros(1, 3, 224, 224))
    group = architecture.group("features.2.conv.0.0")
    assert {"features.2.conv.0.0", "features.2.conv.1.0", "features.2.conv.2"} <= set(group.members)


def test_the_module_is_not_touched() -> None:
    model = NETWORKS.get("resnet20").build(10).train()
    model.get_parameter("conv1.weight").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trace(model, torch.zeros(2, 3, 32, 32))
    assert model.training
    assert not model.get_parameter("conv1.weight").requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_no_weights_are_held() -> None:
    assert all(p.device.type == "meta" for p in weightless(NETWORKS.get("resnet18").build(10)).parameters())


def test_a_failing_forward_pass_says_what_was_tried() -> None:
    with pytest.raises(TraceError, match=r"CifarResNet fails its own forward pass with an input of shape \[1, 4, 32, 32\]"):
        trace(NETWORKS.get("resnet20").build(10), torch.zeros(1, 4, 32, 32))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.tested, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tested(F.relu(self.before(x)))
        return self.head(self.after(y * 2 if y.sum() > 0 else y))  # type: ignore[no-any-return]


def test_data_dependent_control_flow_freezes_what_it_touches_and_what_comes_after() -> None:
    architecture = trace(Branching(), torch.ones(1, 3, 8, 8))
    assert architecture.group("before").frozen is None
    assert all("depends on values of the input" in str(architecture.group(name).frozen) for name in ("tested", "after"))


class Softmaxed(nn.Module):
    """An operation over channels that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(i, o, 1) for i, o in ((3, 8), (8, 8), (8, 4)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(F.relu(self.second(torch.softmax(self.first(x), dim=1))))
        return y


def test_unknown_operations_freeze_what_they_touch_and_nothing_else() -> None:
    architecture = trace(Softmaxed(), torch.zeros(1, 3, 8, 8))
    assert architecture.group("first").frozen == "used by softmax, which cannot be cut through"
    assert architecture.group("second").frozen is None


class Concatenated(nn.Module):
    """Unequal widths concatenated, flattened, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1)
        self.shared = nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.left(x), self.right(x)], dim=1)
        y = self.shared(F.relu(self.shared(y)))
        return self.head(F.adaptive_avg_pool2d(y, 2).flatten(1))  # type: ignore[no-any-return]


def test_a_layer_used_twice_couples_its_input_with_its_output() -> None:
    architecture = trace(Concatenated(), torch.zeros(1, 3, 8, 8))
    assert {(g.name, g.width) for g in architecture.free_groups} == {("left", 5), ("right", 7)}
    assert architecture.group("left").members == ("left", "shared", "head")
    assert next(a for a in architecture.tensor["head.weight"].axes if a.dim == 1).ids().size == 48


class ForTraining(nn.Module):
    """A head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.helper = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> object:
        y = self.body(x)
        return (self.head(y), self.helper(y)) if self.training else self.head(y)


def test_what_only_training_uses_is_cut_too() -> None:
    model = ForTraining()
    small = prune(model, torch.zeros(1, 3, 8, 8), {"body": 5})
    assert small.get_parameter("helper.weight").shape[1] == 5
    assert len(small.train()(torch.zeros(2, 3, 8, 8))) == 2


@functools.lru_cache
def _mask(size: int) -> Tensor:
    return torch.tril(torch.ones(size, size))


class Cached(nn.Module):
    """Keeps a tensor for later that it makes without saying where."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(_mask(x.shape[1]) @ y)  # type: ignore[no-any-return]


def test_what_a_program_keeps_for_later_is_left_usable() -> None:
    model, tokens = Cached(), torch.zeros(1, 5, 6)
    architecture = trace(model, tokens)
    assert architecture.group("first").frozen is None
    assert model(tokens).device.type == "cpu"
    model(tokens).sum().backward()


class Holder:
    """An answer that holds itself."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.me = logits, self


class Odd(nn.Module):
    """A sparse buffer, and an answer of a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.register_buffer("adjacency", torch.eye(5).to_sparse())

    def forward(self, x: Tensor) -> Holder:
        return Holder(self.second(torch.sparse.mm(self.adjacency, self.first(x))))


def test_sparse_buffers_and_answers_of_any_class_do_not_hinder() -> None:
    architecture = trace(Odd(), torch.zeros(5, 6))
    assert architecture.group("second").frozen == "network output"


def test_random_numbers_of_the_caller_are_as_before() -> None:
    model = Branching()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trace(model, torch.ones(1, 3, 8, 8))
    assert torch.equal(torch.rand(3), expected)
