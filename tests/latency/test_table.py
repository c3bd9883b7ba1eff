"""Tables give back what was timed, grow where they should, and do not mix widths of other classes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Signature
from automl_prune.latency.table import LatencyTable, class_of, grid, monotone

CONV = Signature("conv", (3, 3), (1, 1), (1, 1), (8, 8))
DEPTHWISE = Signature("depthwise", (3, 3), (1, 1), (1, 1), (8, 8))


def timed(widths: range) -> LatencyTable:
    """ms = inputs · outputs, thrice that where the inputs are no multiple of 16."""
    points = grid(np.array(widths)).tolist()
    return LatencyTable.of(CONV, {(i, o): i * o * (1 if i % 16 == 0 else 3.0) for i in points for o in points})


def test_the_grid_has_the_ends_of_every_class() -> None:
    points = grid(np.arange(1, 65)).tolist()
    assert {16, 64, 4, 60, 1, 63} <= set(points)
    assert len(points) <= 12
    assert points == sorted(points)


@given(st.sets(st.integers(1, 2048), min_size=1, max_size=300))
def test_a_grid_is_made_of_widths_that_can_occur(widths: set[int]) -> None:
    chosen = grid(np.array(sorted(widths)))
    assert set(chosen.tolist()) <= widths
    assert set(class_of(chosen).tolist()) == set(class_of(np.array(sorted(widths))).tolist())


def test_what_was_timed_comes_back() -> None:
    table = timed(range(1, 65))
    for i in table.inputs:
        for o in table.outputs:
            assert table(np.array(i), np.array(o)) == pytest.approx(i * o * (1 if i % 16 == 0 else 3))


def test_between_points_a_width_keeps_to_its_class() -> None:
    table = timed(range(1, 65))
    assert table(np.array(48), np.array(32)) == pytest.approx(48 * 32)
    assert table(np.array(47), np.array(32)) == pytest.approx(3 * 47 * 32)
    every = np.arange(1, 65)
    expected = np.outer(np.where(every % 16, 3, 1) * every, every)
    assert table(every[:, None], every[None, :]) == pytest.approx(expected)


def test_widths_beyond_the_widest_are_taken_as_the_widest() -> None:
    table = timed(range(1, 33))
    assert table(np.array(99), np.array(99)) == table(np.array(32), np.array(32))


def test_a_depthwise_layer_has_one_width() -> None:
    table = LatencyTable.of(DEPTHWISE, {(w, w): float(w) for w in (1, 8, 16, 24, 32, 31)})
    widths = np.array([1, 16, 20, 32])
    assert table(widths, widths) == pytest.approx([1, 16, 20, 32])
    assert table.inputs == table.outputs


def test_a_hole_in_the_grid_is_named() -> None:
    with pytest.raises(MeasurementError, match=r"\(2, 1\)"):
        LatencyTable.of(CONV, {(1, 1): 1.0, (1, 2): 1.0, (2, 2): 1.0})


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0.01, 100)))
def test_monotone_grows_both_ways_keeps_what_grows_and_stays_within(ms: np.ndarray) -> None:
    repaired = monotone(ms)
    assert (np.diff(repaired, axis=0) >= -1e-12).all()
    assert (np.diff(repaired, axis=1) >= -1e-12).all()
    assert repaired.min() >= ms.min()
    assert repaired.max() <= ms.max()
    assert monotone(repaired) == pytest.approx(repaired)


def test_as_json() -> None:
    assert json.loads(json.dumps(timed(range(1, 9)).to_json()))["outputs"] == [1, 3, 4, 5, 7, 8]
