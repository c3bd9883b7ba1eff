import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from automl_prune.pareto import crowding, hypervolume, non_dominated, ranks

FEW = settings(max_examples=60, deadline=None)
Points = npt.NDArray[np.float64]


def points(columns: int | None = None) -> st.SearchStrategy[Points]:
    # Few distinct values, so that ties and equal rows are common.
    shape = st.tuples(st.integers(0, 12), st.integers(1, 3) if columns is None else st.just(columns))
    return shape.flatmap(lambda s: arrays(np.float64, s, elements=st.integers(0, 5).map(float)))


def dominates(a: Points, b: Points) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_front_of_a_known_set() -> None:
    losses = np.array([[1, 5], [2, 3], [3, 3], [4, 1], [2, 6], [4, 1]])
    assert non_dominated(losses).tolist() == [True, True, False, True, False, True]
    assert ranks(losses).tolist() == [0, 0, 1, 0, 1, 0]


def test_one_loss_keeps_every_minimum() -> None:
    assert non_dominated([[2.0], [1.0], [1.0]]).tolist() == [False, True, True]


def test_infinity_is_a_value_and_nan_is_not() -> None:
    assert non_dominated(np.array([[0, np.inf], [1, 0], [1, np.inf]])).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="NaN"):
        non_dominated([[0.0, np.nan]])


def test_nothing_in_nothing_out() -> None:
    empty = np.empty((0, 2))
    assert non_dominated(empty).shape == ranks(empty).shape == (0,)
    assert hypervolume(empty, [1, 1]) == 0


@FEW
@given(points())
def test_front_is_what_the_definition_says(losses: Points) -> None:
    expected = [not any(dominates(other, row) for other in losses) for row in losses]
    assert non_dominated(losses).tolist() == expected


@FEW
@given(points())
def test_each_rank_is_one_more_than_the_worst_of_its_dominators(losses: Points) -> None:
    rank = ranks(losses)
    for i, row in enumerate(losses):
        above = [rank[j] for j, other in enumerate(losses) if dominates(other, row)]
        assert rank[i] == (max(above) + 1 if above else 0)


def test_hypervolume_of_a_staircase() -> None:
    assert hypervolume([[1, 2], [2, 1], [5, 5], [0, 4]], [3, 3]) == pytest.approx(2 + 1)


@FEW
@given(points(columns=2))
def test_hypervolume_counts_the_unit_cells_that_are_dominated(losses: Points) -> None:
    cells = [(x, y) for x in range(4) for y in range(4)]
    covered = sum(any(a <= x and b <= y for a, b in losses) for x, y in cells)
    assert hypervolume(losses, [4, 4]) == pytest.approx(covered)


@pytest.mark.parametrize(("losses", "reference"), [([[1, 2, 3]], [4, 4, 4]), ([[1, 2]], [4]), ([[1, 2]], [np.nan, 4])])
def test_hypervolume_refuses_what_it_cannot_do(losses: list[list[float]], reference: list[float]) -> None:
    with pytest.raises(ValueError, match=r"two losses|NaN"):
        hypervolume(losses, reference)


def test_losses_must_be_a_matrix() -> None:
    with pytest.raises(ValueError, match="matrix"):
        ranks([1.0, 2.0])


def test_crowding_by_hand() -> None:
    """Ranges are 4 and 8: the second point's neighbours are 3/4 and 6/8 apart, the third's 3/4 and 4/8."""
    assert crowding([[0, 8], [1, 4], [3, 2], [4, 0]]).tolist() == [np.inf, 0.75 + 0.75, 0.75 + 0.5, np.inf]


def test_crowding_of_few_and_of_equal_points() -> None:
    assert crowding([[1, 2]]).tolist() == [np.inf]
    assert crowding([[1, 2], [2, 1]]).tolist() == [np.inf, np.inf]
    assert crowding([[1, 2]] * 4).tolist() == [np.inf, 0, 0, np.inf]
