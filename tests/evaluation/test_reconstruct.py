"""Least-squares reconstruction: AMC-7 and AMC-8, every kind of layer, and what it does for a real network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.images import load_images
from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.recipe import DatasetSpec, Recipe
from automl_prune.evaluation.reconstruct import Reconstruction
from automl_prune.evaluation.scoring import score
from automl_prune.evaluation.weights import fit, load_state_dict_file
from automl_prune.networks import NETWORKS
from automl_prune.problem import Budget, Problem
from automl_prune.space import ChannelSpace
from automl_prune.surgery.criteria import CRITERIA
from automl_prune.surgery.slicing import Ranking, materialise


def noise(*shape: int, count: int = 3, seed: int = 0) -> list[Batch]:
    drawn = torch.Generator().manual_seed(seed)
    return [(torch.randn(*shape, generator=drawn), torch.zeros(shape[0], dtype=torch.int64)) for _ in range(count)]


def seeded(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    return model.eval()


def reconstruct(
    model: nn.Module, kept: dict[str, list[int]], data: list[Batch], *, points: int = 10_000, images: int = 10_000
) -> tuple[nn.Module, nn.Module, dict[str, tuple[float, float]]]:
    """The cut network without and with reconstruction, and the errors that were reported."""
    architecture = trace(model, data[0][0][:1])
    plain, fitted = (materialise(model, architecture, kept) for _ in range(2))
    made = Reconstruction(model, architecture, data, images=images, points=points, seed=0)
    return plain, fitted, made.apply(fitted, kept)


def part(model: nn.Module, name: str) -> Any:
    return dict(model.named_modules())[name]


def error(x: Tensor, y: Tensor, weight: Tensor) -> float:
    return float((y - x @ weight.detach().flatten(1).T.double()).square().sum() / y.square().sum())


def test_duplicated_channels_are_made_up_for() -> None:
    """One of each pair is dropped: with the fitted weights nothing is missing (AMC-7)."""
    model = seeded(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    with torch.no_grad():
        part(model, "0").weight[4:] = part(model, "0").weight[:4]
        part(model, "0").bias[4:] = part(model, "0").bias[:4]
    data = noise(40, 6)
    plain, fitted, errors = reconstruct(model, {"0": [0, 1, 2, 3]}, data)
    ours, theirs, expected = (torch.cat([m(x) for x, _ in data]).detach() for m in (fitted, plain, model))
    assert float((ours - expected).norm() / expected.norm()) < 1e-5
    assert float((theirs - expected).norm() / expected.norm()) > 0.1
    assert errors["2"][0] > 0.1
    assert errors["2"][1] < 1e-10


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 1)), (5, 3, 9, 9)),
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 3, padding=1)), (5, 3, 9, 9)),
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, (3, 2), stride=(2, 1), padding=(1, 0))), (5, 3, 9, 9)),
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 3, padding="same", dilation=2)), (5, 3, 9, 9)),
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 3, padding=1, padding_mode="reflect", bias=False)), (5, 3, 9, 9)),
        ((nn.Conv1d(3, 7, 3), nn.ReLU(), nn.Conv1d(7, 6, 3, stride=2)), (9, 3, 25)),
        ((nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 9, 6)), (60, 3, 5, 5)),
        ((nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6)), (20, 4, 5)),
    ],
    ids=["1x1", "3x3", "strided", "dilated", "reflecting", "1-D", "flattened", "tokens"],
)
def test_it_is_numpys_least_squares(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    model = seeded(*layers)
    data = noise(*shape, count=4)
    keep, last = [0, 2, 3, 6], str(len(layers) - 1)
    plain, fitted, errors = reconstruct(model, {"0": keep}, data)
    taken = torch.cat([model[:-1](x) for x, _ in data]).detach()
    x, y = _rows(model[-1], taken, keep)
    solution = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    assert part(fitted, last).weight.flatten(1).detach().numpy() == pytest.approx(solution.T, abs=2e-5)
    assert errors[last] == pytest.approx((error(x, y, part(plain, last).weight), error(x, y, part(fitted, last).weight)))
    assert errors[last][1] < errors[last][0]


def _rows(layer: Any, taken: Tensor, keep: list[int]) -> tuple[Tensor, Tensor]:
    """All rows of kept inputs and of outputs without bias, made by torch's own unfolding."""
    y = layer(taken).detach()
    bias = 0 if layer.bias is None else layer.bias.detach()
    if isinstance(layer, nn.Linear):
        wide = taken.shape[-1] // 7
        x = taken.reshape(*taken.shape[:-1], 7, wide)[..., keep, :].flatten(-2)
        return x.flatten(0, -2).double(), (y - bias).flatten(0, -2).double()
    if taken.dim() == 3:
        windows = taken[:, keep].unfold(2, layer.kernel_size[0], layer.stride[0])
        return windows.permute(0, 2, 1, 3).flatten(0, 1).flatten(1).double(), (y.movedim(1, -1) - bias).flatten(
            0, 1
        ).double()
    padding, mode = layer.padding, "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    sides = [2] * 4 if padding == "same" else [padding[1], padding[1], padding[0], padding[0]]
    padded = nn.functional.pad(taken[:, keep], sides, mode=mode)
    x = nn.functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return x.movedim(1, -1).flatten(0, 1).double(), (y.movedim(1, -1) - bias).flatten(0, 2).double()


def test_sampled_positions_never_make_it_worse_on_themselves() -> None:
    model = seeded(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    for seed in range(5):
        _, _, errors = reconstruct(
            model, {"0": [0, 1, seed + 2], "2": [seed, 6, 7]}, noise(30, 3, 9, 9, seed=seed), points=3
        )
        assert list(errors) == ["2", "4"]
        assert all(after <= before for before, after in errors.values())


def test_cut_outputs_are_not_fitted() -> None:
    """Each output is fitted by itself, so cutting some changes nothing for those that stay."""
    model = seeded(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    data = noise(50, 6)
    _, some, _ = reconstruct(model, {"0": [1, 2, 5], "2": [0, 4]}, data)
    _, every, _ = reconstruct(model, {"0": [1, 2, 5]}, data)
    assert torch.allclose(part(some, "2").weight, part(every, "2").weight[[0, 4]], atol=1e-6)


def test_what_cannot_be_fitted_stays_and_says_why() -> None:
    model = seeded(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 4, 1),
    )
    data = noise(6, 3, 7, 7)
    architecture = trace(model, data[0][0][:1])
    made = Reconstruction(model, architecture, data, images=18, points=5, seed=0)
    assert {name: reason.partition(":")[0] for name, reason in made.skipped.items()} == {"1": "depthwise", "3": "grouped"}
    kept = {"0": [0, 1, 2]}
    cut, untouched = (materialise(model, architecture, kept) for _ in range(2))
    assert list(made.apply(cut, kept)) == ["2"]
    assert torch.equal(part(cut, "1").weight, part(untouched, "1").weight)
    assert made.left_out(kept) == []


def test_layers_beyond_the_memory_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl_prune.evaluation.reconstruct.MEMORY", 8 * 8 * (8 + 4))
    model = seeded(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    made = Reconstruction(model, trace(model, torch.zeros(1, 6)), noise(10, 6), images=30, points=1, seed=0)
    assert "more than is left" in made.skipped["2"]
    assert "4" not in made.skipped
    assert made.left_out({"0": [0, 1]}) == ["2"]
    assert made.left_out({"2": [0, 1]}) == []


def test_inputs_that_are_sums_of_others_do_not_matter() -> None:
    model = seeded(nn.Linear(3, 8), nn.Linear(8, 5))  # eight inputs in three dimensions
    _, fitted, errors = reconstruct(model, {"0": [0, 1, 2, 5, 7]}, noise(40, 3))
    assert errors["1"][1] < 1e-6
    assert bool(part(fitted, "1").weight.isfinite().all())


def test_only_as_many_images_as_ordered_are_used_and_flags_stay() -> None:
    model = seeded(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).train()
    data, architecture = noise(40, 6), trace(model, torch.zeros(1, 6))
    some = Reconstruction(model, architecture, data, images=50, points=1, seed=0)
    expected = Reconstruction(
        model, architecture, [data[0], (data[1][0][:10], data[1][1][:10])], images=999, points=1, seed=0
    )
    assert torch.equal(some._moments["2"].inputs, expected._moments["2"].inputs)
    assert all(m.training for m in model.modules())


def test_kept_inputs_are_those_taken_in_most_and_cutting_is_filling_with_zeros() -> None:
    """AMC-8: top column sums of absolute weights; the cut network is the whole one with zeros where inputs are gone."""
    model = seeded(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5)
    )
    data = noise(20, 3, 7, 7)
    architecture = trace(model, data[0][0][:1])
    kept = Ranking(model, architecture, CRITERIA.get("l1_inputs"), reduction="first").keep({"0": 5, "3": 3})
    sums = part(model, "3").weight.abs().sum(dim=(0, 2, 3))
    assert sorted(sums.topk(5).indices.tolist()) == kept["0"].tolist()
    small = materialise(model, architecture, kept)
    Reconstruction(model, architecture, data, images=60, points=20, seed=0).apply(small, kept)
    padded = seeded(*model)
    taken = {"3": kept["0"], "6": (kept["3"][:, None] * 9 + np.arange(9)).ravel()}
    put = {"3": kept["3"], "6": np.arange(5)}
    with torch.no_grad():
        padded.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
        for name, inputs in taken.items():
            whole = torch.zeros_like(part(model, name).weight)
            whole[np.ix_(put[name], inputs)] = part(small, name).weight
            part(padded, name).weight.copy_(whole)
    assert torch.allclose(small(data[0][0]), padded(data[0][0]), atol=1e-4)


@pytest.mark.parametrize("inherit", ["scratch", "parent", "hypernetwork"])
def test_only_inherited_weights_are_reconstructed(inherit: str) -> None:
    with pytest.raises(ValidationError, match=f"not with '{inherit}'"):
        Recipe(inherit=inherit, reconstruct="least_squares")


def test_a_real_network_at_half_its_macs_gains(real_data: Path, real_weights: Path) -> None:
    """ResNet-20 on CIFAR-10, uniform widths, no training: three times as many images are right."""
    if not (real_data / "cifar-10-batches-bin").is_dir() or not (real_weights / "resnet20-12fca82f.th").is_file():
        pytest.skip("no CIFAR-10 or no resnet20-12fca82f.th in the real data")
    network = NETWORKS.get("resnet20")
    model = network.build(10).eval()
    fit(model, load_state_dict_file(real_weights / "resnet20-12fca82f.th"))
    architecture = trace(model, torch.zeros(1, 3, 32, 32))
    space = ChannelSpace.of(architecture)
    cost = CostModel(architecture, space.names)
    problem = Problem(space, cost, budgets=(Budget("macs", max=0.5 * cost.one()["macs"]),))
    spec = DatasetSpec(name="cifar10", select_size=500, batch_size=250)
    images = load_images(DATASETS.get("cifar10"), spec, real_data, network=network, seed=0)
    kept = Ranking(model, architecture, CRITERIA.get("l1")).keep(space.widths(problem.widest_uniform))
    plain, fitted = (materialise(model, architecture, kept) for _ in range(2))
    errors = Reconstruction(model, architecture, images.fit(limit=2), images=500, points=10, seed=0).apply(fitted, kept)
    assert len(errors) == 19
    assert all(after <= before for before, after in errors.values())
    before, after = (score(m, images.select())["top1"] for m in (plain, fitted))
    assert after > before + 0.2
