import pytest
import torch
from torch import Tensor, nn

from automl_prune import prune
from automl_prune.architecture.tracing import trace
from automl_prune.errors import TraceError
from automl_prune.networks import NETWORKS
from automl_prune.surgery.verify import admit, verify


class HardCoded(nn.Module):
    """Sizes written into the forward pass: cutting ``first`` would break it, cutting ``second`` would not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).reshape(x.shape[0], 8, x.shape[2], x.shape[3])
        return self.third(self.second(y))  # type: ignore[no-any-return]


class Wrong(nn.Module):
    """Takes fixed positions out of its channels: cutting runs, but answers something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[:, 1:3])  # type: ignore[no-any-return]


def test_what_does_not_run_is_frozen_with_its_reason() -> None:
    architecture = admit(HardCoded(), torch.zeros(1, 3, 4, 4))
    assert (architecture.group("first").frozen or "").startswith("the smaller network does not run: RuntimeError")
    assert architecture.group("second").frozen is None


def test_what_would_be_wrong_is_frozen() -> None:
    architecture = admit(Wrong(), torch.zeros(1, 3, 4, 4))
    assert all(g.frozen for g in architecture.groups if g.name.startswith("first"))


def test_a_users_wrong_cut_is_refused() -> None:
    groups = [g for g in trace(Wrong(), torch.zeros(1, 3, 4, 4)).free_groups if g.width > 1]
    with pytest.raises(TraceError, match="cannot be cut"):
        prune(Wrong(), torch.zeros(1, 3, 4, 4), {groups[0].name: 1})


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
    assert architecture.group("first").frozen == "used by conv2d, which cannot be cut through"
    assert architecture.fixed_macs == 8 * 16
