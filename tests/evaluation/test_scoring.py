import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.loading import Batch, Normalise, batches
from automl_prune.evaluation.modes import Precision
from automl_prune.evaluation.scoring import label_places, score
from automl_prune.evaluation.weights import fit, load_state_dict_file
from automl_prune.networks import NETWORKS


class Table(nn.Module):
    """Looks scores up: an "image" is the number of its row."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores[x.flatten().long()]


def rows(labels: list[int], batch_size: int) -> list[Batch]:
    numbers = torch.arange(float(len(labels))).reshape(-1, 1)
    return list(zip(torch.split(numbers, batch_size), torch.split(torch.tensor(labels), batch_size), strict=True))


def test_counts_and_averages_over_images_not_batches() -> None:
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3]]).repeat(4, 1)
    labels = [0, 4, 5, 0]
    came = score(Table(scores), rows(labels, 3))
    assert came["top1"] == 0.5
    assert came["top5"] == 0.75
    reference = nn.functional.cross_entropy(scores, torch.tensor(labels))
    assert came["loss"] == pytest.approx(float(reference), rel=1e-6)


def test_fewer_than_five_classes_are_all_in_the_top_five() -> None:
    came = score(Table(torch.tensor([[2.0, 1.0, 0.0]])), rows([2], 1))
    assert (came["top1"], came["top5"]) == (0.0, 1.0)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_places_agree_with_sorting_where_scores_differ(classes: int, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    logits = drawn.permuted(np.tile(np.arange(classes, dtype=np.float32), (6, 1)), axis=1)
    labels = drawn.integers(0, classes, 6)
    order = np.argsort(-logits, axis=1)
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert label_places(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected


def test_equal_scores_go_to_the_lower_class() -> None:
    """A network that says nothing must not be right more often than its first classes occur."""
    came = score(Table(torch.zeros(10, 10)), rows(list(range(10)), 4))
    assert (came["top1"], came["top5"]) == (0.1, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_fail_the_candidate(value: float) -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        score(Table(torch.tensor([[0.0, value], [0.0, 1.0]])), rows([1, 1], 1))


def test_no_images_are_no_score() -> None:
    with pytest.raises(EvaluationError, match="no images"):
        score(Table(torch.zeros(1, 2)), [])


def test_scores_in_evaluation_mode_and_leaves_the_model_as_it_was() -> None:
    norm = nn.BatchNorm1d(12)
    model = nn.Sequential(nn.Flatten(), norm, nn.Dropout(0.5), nn.Linear(12, 3))
    norm.eval()
    flags = [m.training for m in model.modules()]
    data = [(torch.randn(8, 3, 2, 2), torch.zeros(8, dtype=torch.int64))]
    assert score(model, data) == score(model, data)
    assert [m.training for m in model.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(norm.state_dict()["running_mean"], torch.zeros(12))


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_published_network_scores_as_published(real_data: Path, real_weights: Path, precision: Precision) -> None:
    """ResNet-20 has 91.73 % on all 10,000 test images; the first 1,000 are within three standard errors (2.6 %)."""
    if not (real_data / "cifar-10-batches-bin").is_dir() or not (real_weights / "resnet20-12fca82f.th").is_file():
        pytest.skip("no CIFAR-10 or no resnet20-12fca82f.th in the real data")
    network = NETWORKS.get("resnet20")
    model = network.build(10)
    fit(model, load_state_dict_file(real_weights / "resnet20-12fca82f.th"))
    _, test = DATASETS.get("cifar10").load(real_data, download=False, image_size=None)
    assert test is not None
    made = batches(test, np.arange(1000), 250, normalise=Normalise(network.mean, network.std), channels_last=True)
    came = score(model, made, precision=precision)
    assert came["top1"] == pytest.approx(0.9173, abs=0.026)
    assert came["top5"] > 0.99
