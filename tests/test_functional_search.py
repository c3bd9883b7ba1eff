"""``search``: a caller's own module and data, the real loop, and nothing of the caller's touched."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import automl_prune
from automl_prune.errors import BudgetError, SpecError, TraceError, UnknownNameError, UserError
from automl_prune.evaluation.scoring import score
from automl_prune.trial import Trial, TrialState

HALF = {"metric": "macs", "max_ratio": 0.5}


class Mine(nn.Module):
    """Feeds a convolution and its input, concatenated, to a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.second, self.head = nn.Conv2d(12, 16, 3, padding=1), nn.Linear(28, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.cat([x, torch.relu(self.second(x))], dim=1)
        return self.head(x.amax(dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    bundle = load_digits()
    return torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bundle.target)


@pytest.fixture(scope="module")
def mine(digits: tuple[Tensor, Tensor]) -> Mine:
    """Trained a little, in a mixture of modes."""
    torch.manual_seed(0)
    model, (images, labels) = Mine(), digits
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        part = slice(step * 25 % 1000, step * 25 % 1000 + 100)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    return model


class Found:
    def __init__(self, model: Mine, data: tuple[Tensor, Tensor], folder: Path) -> None:
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.generator = torch.get_rng_state()
        self.seen: list[Trial] = []
        self.result = automl_prune.search(
            model,
            data,
            budget=HALF,
            strategy={"name": "abc", "options": {"population": 2}},
            trials=4,
            finish={"top_k": 1, "epochs": 2},
            dataset={"batch_size": 64, "report_size": 300},
            folder=folder,
            on_trial=self.seen.append,
        )
        self.folder = folder


@pytest.fixture(scope="module")
def found(mine: Mine, digits: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Found:
    return Found(mine, digits, tmp_path_factory.mktemp("search") / "files")


def test_the_model_is_smaller_and_scores_as_reported(found: Found, digits: tuple[Tensor, Tensor]) -> None:
    result = found.result
    assert result.metrics["macs"] <= 0.5 * result.result["base_metrics"]["macs"]
    assert {name: m.weight.shape[0] for name, m in result.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)} == (
        result.channels
    )
    assert not result.model.training
    assert sum(p.numel() for p in result.model.parameters()) == result.metrics["params"]
    whole = score(result.model, [digits])["top1"]
    assert abs(whole - result.metrics["top1"]) < 0.1
    assert whole > 0.6


def test_the_callers_module_and_generator_are_as_they_were(found: Found, mine: Mine) -> None:
    assert all(torch.equal(found.before[name], tensor) for name, tensor in mine.state_dict().items())
    assert (mine.training, mine.norm.training) == (True, False)
    assert [n for n, p in mine.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert [n for n, p in found.result.model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert torch.equal(torch.get_rng_state(), found.generator)


def test_the_files_rebuild_the_model_beside_the_callers_own(found: Found, digits: tuple[Tensor, Tensor]) -> None:
    rebuilt = automl_prune.load_architecture(found.folder / "architecture.json", model=Mine())
    assert torch.equal(rebuilt(digits[0][:50]), found.result.model(digits[0][:50]))
    with pytest.raises(UnknownNameError, match="Mine"):
        automl_prune.load_architecture(found.folder / "architecture.json")


def test_the_result_is_the_services(found: Found) -> None:
    result = json.loads((found.folder / "architecture.json").read_text())
    assert result == found.result.result
    assert set(result["controls"]) == {"uniform", "random"}
    assert result["model"] == {"search_space": "Mine", "input_shape": [1, 8, 8], "num_classes": 10}
    assert {name: part["size"] for name, part in result["splits"].items() if isinstance(part, dict)} == {
        "fit": 1797 - 359 - 300,
        "select": 359,
        "report": 300,
    }
    assert (found.folder / "model.safetensors").is_file()


def test_every_arm_ran(found: Found) -> None:
    trials = found.result.trials
    assert list(dict.fromkeys(t.arm for t in trials)) == ["base", "search", "uniform", "random", "final", "report"]
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert [t.number for t in found.seen] == [t.number for t in trials]


def test_the_channels_can_be_cut_again(found: Found, mine: Mine) -> None:
    small = automl_prune.prune(mine, torch.zeros(1, 1, 8, 8), found.result.channels)
    assert {n: p.shape for n, p in small.named_parameters()} == {
        n: p.shape for n, p in found.result.model.named_parameters()
    }


def test_equal_searches_find_equal_networks(mine: Mine, digits: tuple[Tensor, Tensor]) -> None:
    options: dict[str, Any] = {"budget": HALF, "strategy": "random", "trials": 2, "controls": [], "seed": 7}
    first, second = (automl_prune.search(mine, digits, **options, finish={"recovery": "none"}) for _ in range(2))
    assert first.channels == second.channels
    assert first.metrics == second.metrics


def test_explicit_splits_and_training_from_scratch(digits: tuple[Tensor, Tensor]) -> None:
    """One-dimensional data, a torch dataset, sets of the caller's own, and a module that was never trained."""
    images, labels = digits[0].flatten(1)[:, None], digits[1]
    model = nn.Sequential(
        nn.Conv1d(1, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(240, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    found = automl_prune.search(
        model,
        {
            "fit": TensorDataset(images[:1000], labels[:1000]),
            "select": (images[1000:1300].numpy(), labels[1000:1300].numpy()),
            "report": (images[1300:], labels[1300:]),
        },
        budget=[HALF, {"metric": "params", "max_ratio": 0.9}],
        trials=2,
        controls=["uniform"],
        base_training={"epochs": 3, "lr": 0.05},
        finish={"top_k": 1, "recovery": "scratch", "epochs": 5, "lr": 0.05},
        dataset={"batch_size": 50},
    )
    sizes = {name: part["size"] for name, part in found.result["splits"].items() if isinstance(part, dict)}
    assert sizes == {"fit": 1000, "select": 300, "report": 497}
    assert found.result["provenance"]["strategy"] == "auto"
    assert found.trials[0].arm == "preparation"
    assert found.metrics["top1"] > 0.5
    assert set(found.result["controls"]) == {"uniform"}


class Bare(Mine):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Maps(Mine):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


def test_what_cannot_be_searched_is_named(mine: Mine, digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def refused(error: type[UserError], said: str, model: Any = mine, data: Any = digits, **changes: Any) -> None:
        options: dict[str, Any] = {"budget": HALF, "trials": 2} | changes
        with pytest.raises(error) as caught:
            automl_prune.search(model, data, **options)
        assert said in str(caught.value)

    images, labels = digits
    (tmp_path / "old").touch()
    refused(UserError, "The model is of type str", "Mine")
    refused(UserError, "Maps gives [2, 12, 8, 8] for 2 samples; a classifier gives [n, classes]", Maps())
    refused(
        TraceError,
        "Mine fails its own forward pass on the example input, float32 [2, 3, 8, 8]",
        data=(images.expand(-1, 3, -1, -1), labels),
    )
    refused(UserError, "labels go up to 9, and Mine gives scores for 5 classes", Mine(5))
    refused(UserError, "torch.float64 parameters; a search works in float32", Mine().double())
    refused(UserError, "Bare has parameters and no reset_parameters()", Bare(), finish={"recovery": "scratch"})
    refused(UnknownNameError, "did you mean 'abc'", strategy="abd")
    refused(UnknownNameError, "No budget metric is called 'watts'", budget={"metric": "watts", "max": 1})
    refused(BudgetError, "cannot be reached", budget={"metric": "macs", "max": 10})
    refused(SpecError, "/trials/max", trials=0)
    refused(SpecError, "/strategy/options/bees", strategy={"name": "abc", "options": {"bees": 3}})
    refused(SpecError, "/dataset/report_on", dataset={"report_on": "select"})
    refused(UserError, "leave mean and std out", dataset={"mean": [0.5], "std": [0.5]})
    refused(UserError, "select_size is 5,000", dataset={"select_size": 5000})
    refused(UserError, "is no device", device="gpu")
    refused(UserError, "is not empty; name a new folder", folder=tmp_path)
    broken = Mine()
    with torch.no_grad():
        broken.first.weight[0, 0, 0, 0] = float("nan")
    refused(UserError, "hold NaN or infinity", broken)
