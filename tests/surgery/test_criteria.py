import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.errors import UnknownNameError
from automl_prune.surgery.criteria import CRITERIA, Reduction, kept_units, producers
from automl_prune.surgery.slicing import Ranking


class Planted(nn.Module):
    """Two convolutions whose outputs are added, so that they share one group of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(2, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.left(x) + self.right(x)))
        return y


def planted(left: list[list[float]], right: list[list[float]], scale: list[float]) -> tuple[Planted, Architecture]:
    model = Planted()
    with torch.no_grad():
        model.left.weight.copy_(torch.tensor(left)[:, :, None, None])
        model.right.weight.copy_(torch.tensor(right)[:, :, None, None])
        model.norm.weight.copy_(torch.tensor(scale))
    return model, trace(model, torch.zeros(1, 2, 4, 4))


ONES = [[1.0, 0.0]] * 4


def scores(name: str, model: Planted, architecture: Architecture, reduction: Reduction = "mean") -> list[float]:
    group = architecture.group("left")
    found = CRITERIA.get(name).score(architecture, group, dict(model.named_parameters()), reduction=reduction)
    return [round(float(s), 6) for s in found]


def test_a_coupled_group_is_scored_by_all_its_producers() -> None:
    _, architecture = planted(ONES, ONES, [1.0] * 4)
    assert producers(architecture, architecture.group("left")) == [("left.weight", 0), ("right.weight", 0)]


def test_l1_and_l2_by_hand() -> None:
    model, architecture = planted([[3, -4], [0, 0], [1, 0], [0, 2]], ONES, [1.0] * 4)
    assert scores("l1", model, architecture, "first") == [2.8, 0.0, 0.4, 0.8]
    assert scores("l2", model, architecture, "first") == [2.5, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 1.9), ("sum", 3.8), ("max", 2.8), ("first", 2.8)])
def test_declared_reductions(reduction: Reduction, expected: float) -> None:
    model, architecture = planted([[3, -4], [0, 0], [1, 0], [0, 2]], ONES, [1.0] * 4)
    assert scores("l1", model, architecture, reduction)[0] == expected


def test_fpgm_prunes_one_of_two_equal_filters() -> None:
    model, architecture = planted([[1, 0], [1, 0], [0, 9], [-9, 0]], ONES, [1.0] * 4)
    found = scores("fpgm", model, architecture, "first")
    assert min(found) == found[0] == found[1]
    assert kept_units(np.array(found), 3).tolist() == [0, 2, 3]


def test_bn_scale_ranks_by_the_norm_and_falls_back_to_l1() -> None:
    model, architecture = planted(ONES, ONES, [0.1, -0.9, 0.5, 0.0])
    assert np.argsort(scores("bn_scale", model, architecture)).tolist() == [3, 0, 2, 1]
    bare = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        bare.get_parameter("0.weight").copy_(torch.tensor([1.0, 3.0, 2.0])[:, None, None, None])
    ranking = Ranking(bare, trace(bare, torch.zeros(1, 1, 2, 2)), CRITERIA.get("bn_scale"))
    assert ranking.keep({"0": 2})["0"].tolist() == [1, 2]


def test_random_depends_on_the_seed_alone() -> None:
    model, architecture = planted(ONES, ONES, [1.0] * 4)
    ranking = Ranking(model, architecture, CRITERIA.get("random"))
    draws = [tuple(ranking.keep({"left": 2}, seed=s)["left"].tolist()) for s in (1, 1, 2, 3, 4, 5)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_random_covers_the_last_channel() -> None:
    model, architecture = planted(ONES, ONES, [1.0] * 4)
    ranking = Ranking(model, architecture, CRITERIA.get("random"))
    counts = np.zeros(4)
    for seed in range(1000):
        kept = ranking.keep({"left": 2}, seed=seed)["left"]
        assert kept.tolist() == sorted(set(kept.tolist()))
        counts[kept] += 1
    assert counts.min() > 400


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.data())
def test_kept_units_are_the_best_ascending_and_unique(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    kept = kept_units(np.array(values), count).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == count
    assert min(values[i] for i in kept) >= max((values[i] for i in range(len(values)) if i not in kept), default=0)


def test_unknown_criterion_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"No criterion is called 'fpmg'; did you mean 'fpgm'"):
        CRITERIA.get("fpmg")
