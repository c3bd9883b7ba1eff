"""What tells networks apart: a device that only traces one knows it for the one that was verified elsewhere."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.tracing import trace
from automl_prune.latency import stopwatch
from automl_prune.latency.building import full_network
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.stopwatch import Stopwatch, TracedNetwork
from automl_prune.latency.work import NetworkWork, digest
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.verify import admit


class HardCoded(nn.Module):
    """A group whose size is written into the forward pass, a free one, and multiply-adds of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(self.second(self.first(x).reshape(x.shape[0], 8, 8, 8)))
        return y + torch.nn.functional.conv2d(x[:, :, 2:, 2:], torch.ones(1, 3, 1, 1))


IMAGE = torch.zeros(1, 3, 8, 8)


def narrowest(name: str, architecture: Architecture) -> NetworkWork:
    """The smallest network that a search of this architecture may have timed."""
    space = ChannelSpace.of(architecture)
    widths = tuple(zip(space.names, space.narrowest.widths, strict=True))
    return replace(full_network(name, 10, architecture), widths=widths)


def newly_frozen(before: Architecture, after: Architecture) -> list[str]:
    return [new.name for old, new in zip(before.groups, after.groups, strict=True) if new.frozen and not old.frozen]


def test_a_device_times_what_was_verified_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "NETWORK_LIMITS", (0.5, 5))
    traced = TracedNetwork(HardCoded, trace(HardCoded(), IMAGE))
    admitted = admit(HardCoded(), IMAGE)
    assert newly_frozen(traced.architecture, admitted) == ["first"]
    assert admitted.fixed_macs > traced.architecture.fixed_macs
    assert digest(admitted) == traced.digest
    work = narrowest("hard_coded", admitted)
    assert dict(work.widths) == {"second": 1}
    assert Stopwatch(Conditions(), {"hard_coded": traced}).time(work).ms > 0


@pytest.mark.slow
def test_networks_with_frozen_groups_are_timed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "NETWORK_LIMITS", (0.5, 3))
    definition = NETWORKS.get("swin_t")
    admitted = admit(definition.build(10), torch.zeros(1, *definition.input_shape), seconds=3600)
    traced = TracedNetwork.registered("swin_t", 10)
    assert newly_frozen(traced.architecture, admitted), "this network has such groups no more; take another"
    assert digest(admitted) == traced.digest
    assert Stopwatch(Conditions()).time(narrowest("swin_t", admitted)).ratio < 0.9


def regrouped(architecture: Architecture, change: Callable[[ChannelGroup], ChannelGroup]) -> Architecture:
    groups = (change(group) if group.name == "second" else group for group in architecture.groups)
    return replace(architecture, groups=tuple(groups))


OTHERS: dict[str, Callable[[Architecture], Architecture]] = {
    "another stride": lambda a: replace(a, layers=(replace(a.layers[0], stride=(2, 2)), *a.layers[1:])),
    "another kind": lambda a: replace(a, layers=(replace(a.layers[0], kind="linear"), *a.layers[1:])),
    "another shape": lambda a: replace(a, tensors=(replace(a.tensors[0], shape=(8, 3, 5, 5)), *a.tensors[1:])),
    "another divisor": lambda a: regrouped(a, lambda g: replace(g, units=3)),
    "other members": lambda a: regrouped(a, lambda g: replace(g, members=g.members[:-1])),
    "another input": lambda a: replace(a, input_shape=(3, 9, 9)),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_is_cut_or_timed_otherwise_is_another_network(change: str) -> None:
    architecture = trace(HardCoded(), IMAGE)
    other = OTHERS[change](architecture)
    assert other != architecture
    assert digest(other) != digest(architecture)


def test_the_same_network_for_more_classes_is_another() -> None:
    assert TracedNetwork.registered("digits_resnet", 10).digest != TracedNetwork.registered("digits_resnet", 7).digest
