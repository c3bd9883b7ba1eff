import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.errors import UnknownNameError, UserError, WidthError
from automl_prune.space import Candidate, ChannelSpace


def architecture(*sizes: tuple[int, int]) -> Architecture:
    """Groups g0, g1 … of (width, units), and a frozen one."""
    groups, start = [], 0
    for i, (width, units) in enumerate(sizes):
        groups.append(ChannelGroup(f"g{i}", width, units, start, (f"g{i}",)))
        start += units
    groups.append(ChannelGroup("out", 10, 10, start, ("out",), frozen="network output"))
    return Architecture((3, 8, 8), tuple(groups), (), ())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 40), st.floats(0, 1))
def test_every_choice_is_legal_and_the_full_width_is_the_last(
    units: int, divisor: int, round_to: int, min_ratio: float
) -> None:
    full = units * divisor
    try:
        space = ChannelSpace.of(architecture((full, units), (64, 64)), round_to=round_to, min_ratio=min_ratio)
    except UserError:
        return
    for name, choices in zip(space.names, space.choices, strict=True):
        width = {"g0": full, "g1": 64}[name]
        step = divisor if name == "g0" else 1
        assert choices[-1] == width
        assert list(choices) == sorted(set(choices))
        assert all(w % step == 0 and w >= min_ratio * width - 1e-6 and w >= 1 for w in choices)
        assert all(w % round_to == 0 for w in choices[:-1])


def test_groups_with_one_choice_and_frozen_ones_are_not_searched() -> None:
    space = ChannelSpace.of(architecture((16, 16), (4, 4), (32, 32)), round_to=8, frozen=["g2"])
    assert space.names == ("g0",)
    assert space.choices == ((8, 16),)


def test_nothing_left_to_search_is_refused_with_the_reasons() -> None:
    with pytest.raises(UserError, match=r"No group is left to search: kept whole by '\*' in frozen \(2\)\."):
        ChannelSpace.of(architecture((16, 16), (8, 8)), frozen=["*"])
    empty = ChannelSpace.of(architecture((16, 16), (8, 8)), frozen=["*"], allow_empty=True)
    assert (len(empty), empty.full, empty.log10_size) == (0, Candidate(()), 0)
    assert empty.array([empty.full]).shape == (1, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.floats(0, 1), st.floats(-1, 2), st.lists(st.floats(-9, 99), min_size=3, max_size=3))
def test_uniform_and_snapped_candidates_stay_inside(
    round_to: int, min_ratio: float, ratio: float, widths: list[float]
) -> None:
    sizes = architecture((64, 64), (48, 16), (36, 9))
    space = ChannelSpace.of(sizes, round_to=round_to, min_ratio=min_ratio, allow_empty=True)
    assert space.uniform(ratio) in space
    assert space.snap(widths[: len(space)]) in space
    assert {*space.names, *(k.name for k in space.kept_whole)} == {"g0", "g1", "g2"}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'layer9'"):
        ChannelSpace.of(architecture((16, 16)), frozen=["layer9"])


SPACE = ChannelSpace(("a", "b"), ((2, 4, 8), (1, 3, 10)))


def test_ties_snap_to_the_wider_choice() -> None:
    assert SPACE.snap([3, 2]).widths == (4, 3)
    assert SPACE.snap([-5, 99]).widths == (2, 10)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-5, 20), min_size=2, max_size=2))
def test_snap_takes_the_nearest(widths: list[float]) -> None:
    for width, got, choices in zip(widths, SPACE.snap(widths).widths, SPACE.choices, strict=True):
        assert abs(got - width) == min(abs(c - width) for c in choices)


def test_membership_and_names() -> None:
    assert Candidate((4, 3)) in SPACE
    assert Candidate((3, 3)) not in SPACE
    assert SPACE.candidate({"b": 1}) == Candidate((8, 1))
    with pytest.raises(WidthError, match=r"'a' cannot be 3 wide; allowed: \[2, 4, 8\]"):
        SPACE.candidate({"a": 3})
    with pytest.raises(UnknownNameError):
        SPACE.candidate({"c": 3})


def test_size_is_counted_and_not_enumerated() -> None:
    assert ChannelSpace(("x",) * 400, (tuple(range(1, 1001)),) * 400).log10_size == pytest.approx(1200)


def test_json_both_ways() -> None:
    assert ChannelSpace.from_json(json.loads(json.dumps(SPACE.to_json()))) == SPACE
    kept = ChannelSpace.of(architecture((16, 16), (8, 8)), round_to=8)
    assert [k.name for k in kept.kept_whole] == ["g1"]
    assert ChannelSpace.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    assert np.array_equal(SPACE.array([Candidate((2, 1)), Candidate((8, 10))]), [[2, 1], [8, 10]])
