"""Weights handed on: NA-2, NA-3 and NA-10 for a parent's children, and files that are missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.narrowing import narrowed
from automl_prune.architecture.tracing import trace
from automl_prune.errors import EvaluationError, WidthError
from automl_prune.evaluation.lineage import Ancestor, load_ancestor, save_ancestor
from automl_prune.networks import NETWORKS
from automl_prune.surgery.criteria import CRITERIA
from automl_prune.surgery.slicing import materialise

L2 = CRITERIA.get("l2")
NETS = ("resnet20", "cifar_vgg16_bn", "mobilenet_v2")


def network(name: str) -> tuple[nn.Module, Architecture, torch.Tensor]:
    torch.manual_seed(0)
    model = NETWORKS.get(name).build(10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    x = torch.randn(2, 3, 32, 32)
    return model, trace(model, x), x


def founder(model: nn.Module, architecture: Architecture) -> Ancestor:
    return Ancestor(model, architecture, {}, L2, "mean")


def half(architecture: Architecture, part: float = 0.5) -> dict[str, int]:
    return {g.name: max(1, int(part * g.units)) * g.divisor for g in architecture.free_groups}


def child(ancestor: Ancestor, widths: dict[str, int]) -> tuple[nn.Module, dict[str, list[int]]]:
    return ancestor.child(widths, scope="all", rank_seed=0, fresh_seed=0)


@pytest.mark.parametrize("name", NETS)
def test_a_child_starts_from_its_parents_weights(name: str, tmp_path: Path) -> None:
    """Its parent was trained on, here by noise: none of its weights are the full network's."""
    model, architecture, x = network(name)
    small, kept = child(founder(model, architecture), half(architecture, 0.75))
    with torch.no_grad():
        for p in small.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_ancestor(small, kept, tmp_path / "trial-0001.safetensors")
    parent = load_ancestor(tmp_path / "trial-0001.safetensors", model, architecture, L2, "mean")
    with torch.no_grad():
        assert torch.equal(parent.model(x), small.eval()(x))
    grandchild, left = child(parent, half(architecture))
    for group, units in left.items():
        assert set(units) <= set(kept.get(group, range(architecture.group(group).units)))
        assert units == sorted(units)
    places = {g: [kept[g].index(u) if g in kept else u for u in units] for g, units in left.items()}
    expected = materialise(parent.model, parent.architecture, places).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in grandchild.state_dict().items())
    with torch.no_grad():
        assert grandchild(x).isfinite().all(), "depthwise, flattened and residual channels fit"


def test_kept_are_the_filters_of_largest_norm_in_the_parent() -> None:
    model, architecture, _ = network("resnet20")
    small, kept = child(founder(model, architecture), {"layer1.0.conv1": 12})
    weight = small.get_parameter("layer1.0.conv1.weight")
    with torch.no_grad():
        weight[5:] *= 0.01
        weight[3] = weight[2]  # of two alike the earlier stays
        weight[2:4] *= 10
    parent = Ancestor(small, narrowed(architecture, kept), kept, L2, "mean")
    _, left = child(parent, {"layer1.0.conv1": 5})
    squared = weight.detach().square().sum(dim=(1, 2, 3)).numpy()
    top = sorted(np.argsort(-squared, kind="stable")[:5].tolist())
    assert left["layer1.0.conv1"] == [kept["layer1.0.conv1"][i] for i in top]
    _, one = child(parent, {"layer1.0.conv1": 1})
    assert one["layer1.0.conv1"] == [kept["layer1.0.conv1"][2]]


@pytest.mark.parametrize("name", NETS)
def test_filters_of_no_norm_are_cut_without_a_trace(name: str) -> None:
    model, architecture, x = network(name)
    group = next(g for g in architecture.free_groups if g.units >= 16)
    gone = [3, 7, 11]
    with torch.no_grad():
        for tensor, axis in architecture.places[group.name]:
            if tensor.learned and axis.role != "in":
                local = architecture.axis_ids[tensor.name, axis.dim] - group.start
                dead = torch.from_numpy(np.flatnonzero(np.isin(local, gone)))
                model.get_parameter(tensor.name).index_fill_(axis.dim, dead, 0)
        for member in group.members:
            module = model.get_submodule(member)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean[gone] = 0
        small, kept = child(founder(model, architecture), {group.name: (group.units - 3) * group.divisor})
        assert kept[group.name] == [u for u in range(group.units) if u not in gone]
        assert torch.allclose(small(x), model(x), atol=1e-5)


def test_cutting_nothing_is_exact_and_residual_groups_share_their_channels(tmp_path: Path) -> None:
    model, architecture, x = network("resnet20")
    whole, kept = child(founder(model, architecture), {g.name: g.width for g in architecture.free_groups})
    assert kept == {}
    save_ancestor(whole, kept, tmp_path / "trial-0000.safetensors")
    parent = load_ancestor(tmp_path / "trial-0000.safetensors", model, architecture, L2, "mean")
    again, _ = child(parent, {})
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    group = next(g for g in architecture.free_groups if len(architecture.producers[g.name]) > 1)
    small, left = child(parent, {group.name: group.width // 2})
    for layer in architecture.producers[group.name]:
        full, cut = model.get_parameter(f"{layer}.weight"), small.get_parameter(f"{layer}.weight")
        assert cut.shape[0] == group.width // 2
        if full.shape[1] == cut.shape[1]:
            assert torch.equal(cut, full[left[group.name]])


def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    model, architecture, _ = network("resnet20")
    with pytest.raises(
        EvaluationError, match=r"trial-0007\.safetensors .* missing or damaged .* not scored with other weights"
    ):
        load_ancestor(tmp_path / "trial-0007.safetensors", model, architecture, L2, "mean")
    small, kept = child(founder(model, architecture), half(architecture))
    file = tmp_path / "trial-0001.safetensors"
    save_ancestor(small, kept, file)
    content = file.read_bytes()
    for damaged in (content[:-100], b"", b"{}", content.replace(b"kept_units", b"kept_other")):
        file.write_bytes(damaged)
        with pytest.raises(EvaluationError, match="missing or damaged"):
            load_ancestor(file, model, architecture, L2, "mean")
    save_ancestor(small, {"layer1.0.conv1": [99]}, file)
    with pytest.raises(EvaluationError, match="missing or damaged"):
        load_ancestor(file, model, architecture, L2, "mean")


def test_a_child_is_not_wider_than_its_parent(tmp_path: Path) -> None:
    model, architecture, _ = network("resnet20")
    small, kept = child(founder(model, architecture), half(architecture))
    save_ancestor(small, kept, tmp_path / "trial-0001.safetensors")
    parent = load_ancestor(tmp_path / "trial-0001.safetensors", model, architecture, L2, "mean")
    with pytest.raises(WidthError, match="layer1"):
        child(parent, {"layer1.0.conv1": 16})
