import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.architecture import Architecture, ChannelGroup, Run
from automl_prune.costs.forms import Sizes, undominated
from automl_prune.errors import TraceError

UNITS, DIVISORS = (4, 1, 6, 3), (1, 1, 2, 5)


def four_groups() -> Architecture:
    """The second group is frozen; channels of the third go in twos, of the fourth in fives."""
    starts = np.cumsum([0, *UNITS]).tolist()
    groups = tuple(
        ChannelGroup(f"g{i}", units * divisor, units, starts[i], (), "frozen" if i == 1 else None)
        for i, (units, divisor) in enumerate(zip(UNITS, DIVISORS, strict=True))
    )
    return Architecture((1,), groups, (), ())


SIZES = Sizes(four_groups(), {"g0": 0, "g2": 1, "g3": 2})
WHOLE = (Run(0, 4), Run(4, 1), Run(5, 6, 2), Run(11, 3, 5))

forms = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, 9), min_size=size, max_size=size), min_size=1, max_size=12)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=4), st.data())
def test_a_size_is_the_entries_that_are_left(axes: list[list[int]], data: st.DataObject) -> None:
    """Axes of whole groups in any order, each as often as its divisor says."""
    runs = [[WHOLE[group] for group in axis] for axis in axes]
    units = [data.draw(st.integers(1, count)) for count in UNITS]
    units[1] = UNITS[1]
    widths = [count * divisor for count, divisor in zip(units, DIVISORS, strict=True)]
    found = SIZES.of(runs) @ np.array([1, widths[0], widths[2], widths[3]], dtype=float)
    assert found.tolist() == pytest.approx([sum(widths[group] for group in axis) for axis in axes])


def test_a_run_may_go_through_several_groups() -> None:
    assert SIZES.of([[Run(2, 5)], []]).tolist() == [pytest.approx([1, 2 / 4, 2 / 12, 0]), [0, 0, 0, 0]]


def test_products_of_sizes_are_summed_up() -> None:
    products: list[list[tuple[Run, ...]]] = [[WHOLE[:1], WHOLE[2:3]], [WHOLE[:1], WHOLE[:2]], [WHOLE[3:]], []]
    form = SIZES.spanned(["a", "b", "c", "d"], products, [9, 1, 2, 100]).total([1, 3, 1, 0.5])
    a, c, d = 3, 8, 10
    row = np.array([1, a, c, d], dtype=float)
    assert row @ form @ row == pytest.approx(9 * a * c + 3 * a * (a + 1) + 2 * d + 50)
    np.testing.assert_array_equal(form, form.T)


def test_three_axes_that_vary_have_no_quadratic_form() -> None:
    with pytest.raises(TraceError, match="cube has 3 axes that vary"):
        SIZES.spanned(["flat", "cube"], [[WHOLE[1:2]] * 3, [WHOLE[:1]] * 3], [1, 1])


@settings(max_examples=100, deadline=None)
@given(forms, st.data())
def test_the_largest_is_never_left_out(rows: list[list[int]], data: st.DataObject) -> None:
    every: npt.NDArray[np.float64] = np.array(rows, dtype=np.float64)
    kept = undominated(every)
    assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in every.tolist()}
    assert len({tuple(row) for row in kept.tolist()}) == len(kept)
    widths = np.array(data.draw(st.lists(st.integers(0, 50), min_size=every.shape[1], max_size=every.shape[1])))
    assert (kept @ widths).max() == (every @ widths).max()
    assert not any(i != j and (a <= b).all() for i, a in enumerate(kept) for j, b in enumerate(kept))


def test_without_forms_nothing_is_left() -> None:
    assert undominated(np.empty((0, 3))).shape == (0, 3)
