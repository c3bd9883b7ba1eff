"""Scales divide widths into classes, and choose from each what to time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.latency.layouts import BLOCKED, DIVISOR, FILLED, LAYOUT, PLAIN, Layout, Scale, filled, is_blocked

WIDTHS = st.sets(st.integers(1, 2048), min_size=1, max_size=300)


def test_the_grid_has_the_ends_of_every_class() -> None:
    points = np.concatenate(DIVISOR.grid(np.arange(1, 65))).tolist()
    assert {16, 64, 4, 60, 1, 63} <= set(points)
    assert len(points) <= 12


def test_blocked_convolutions_are_timed_at_whole_blocks() -> None:
    few, blocks, plain = (part.tolist() for part in LAYOUT.grid(np.arange(1, 65)))
    assert few == sorted(few)
    assert (few[0], few[-1], blocks, plain[0], plain[-1]) == (1, 15, [16, 32, 48, 64], 17, 63)
    assert [part.tolist() for part in FILLED.grid(np.arange(6, 41))] == [[16, 32, 40]], "40 fills three blocks as 48 does"


def test_which_convolutions_compute_in_blocks() -> None:
    assert [int(w) for w in range(1, 26) if is_blocked(np.array(w))] == [*range(1, 17), 20, 24]
    assert filled(np.array([1, 15, 16, 17, 32])).tolist() == [16, 16, 16, 32, 32]


@pytest.mark.parametrize("scale", [DIVISOR, FILLED, LAYOUT])
@given(WIDTHS)
def test_a_grid_is_made_of_widths_that_can_occur(scale: Scale, widths: set[int]) -> None:
    every = np.array(sorted(widths))
    chosen = np.concatenate(scale.grid(every))
    assert set(chosen.tolist()) <= widths
    assert set(scale.classes(chosen).tolist()) == set(scale.classes(every).tolist())
    assert max(chosen) == max(widths)


@pytest.mark.parametrize("scale", [DIVISOR, FILLED, LAYOUT])
@given(WIDTHS)
def test_every_width_is_made_of_points_of_its_class(scale: Scale, widths: set[int]) -> None:
    every = np.array(sorted(widths))
    points = np.concatenate(scale.grid(every))
    weights = scale.weights(every, points)
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(every)))
    assert weights @ scale.places(points) == pytest.approx(scale.places(every))
    assert not weights[scale.classes(every)[:, None] != scale.classes(points)[None, :]].any()


@pytest.mark.parametrize("layout", [PLAIN, BLOCKED])
@given(WIDTHS, WIDTHS)
def test_a_layout_asks_for_whole_grids(layout: Layout, inputs: set[int], outputs: set[int]) -> None:
    pairs = layout.grid(np.array(sorted(inputs)), np.array(sorted(outputs)))
    assert len(set(pairs)) == len(pairs)
    rows = {i: {o for j, o in pairs if j == i} for i, _ in pairs}
    classes = {i: int(layout.inputs.classes(np.array(i))) for i in rows}
    assert all(rows[i] == rows[j] for i in rows for j in rows if classes[i] == classes[j])
