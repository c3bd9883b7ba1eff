"""Tables give back what was timed, grow where they should, and do not mix widths of other classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Signature
from automl_prune.latency.layouts import BLOCKED, PLAIN
from automl_prune.latency.table import LatencyTable, monotone

CONV = Signature("conv", (3, 3), (1, 1), (1, 1), (8, 8))
DEPTHWISE = Signature("depthwise", (3, 3), (1, 1), (1, 1), (8, 8))


def timed(widths: range) -> LatencyTable:
    """ms = inputs · outputs, thrice that where the inputs are no multiple of 16."""
    pairs = PLAIN.grid(np.array(widths), np.array(widths))
    return LatencyTable.of(CONV, {(i, o): i * o * (1 if i % 16 == 0 else 3.0) for i, o in pairs})


def test_what_was_timed_comes_back() -> None:
    table = timed(range(1, 65))
    assert len(table.parts) == 3
    for part in table.parts:
        for i in part.inputs:
            for o in part.outputs:
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


def test_blocks_are_filled_up() -> None:
    """What ONNX Runtime does: times of whole blocks of 16, of fewer inputs as they are, and of another kernel elsewhere."""

    def ms(i: int, o: int) -> float:
        blocks = -(-o // 16)
        return float(i * blocks if i < 16 else 16 * -(-i // 16) * blocks if i % 4 == 0 else 3 * i * o)

    widths = np.arange(1, 97)
    table = LatencyTable.of(CONV, {(i, o): ms(i, o) for i, o in BLOCKED.grid(widths, widths)}, BLOCKED)
    expected = [[ms(i, o) for o in widths.tolist()] for i in widths.tolist()]
    assert table(widths[:, None], widths[None, :]) == pytest.approx(np.array(expected))


def test_a_hole_in_the_grid_is_named() -> None:
    with pytest.raises(MeasurementError, match=r"\(3, 1\)"):
        LatencyTable.of(CONV, {(1, 1): 1.0, (1, 2): 1.0, (3, 2): 1.0})


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0.01, 100)))
def test_monotone_grows_both_ways_keeps_what_grows_and_stays_within(ms: np.ndarray) -> None:
    repaired = monotone(ms)
    assert (np.diff(repaired, axis=0) >= -1e-12).all()
    assert (np.diff(repaired, axis=1) >= -1e-12).all()
    assert repaired.min() >= ms.min()
    assert repaired.max() <= ms.max()
    assert monotone(repaired) == pytest.approx(repaired)
