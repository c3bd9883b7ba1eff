import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.architecture.values import IntArray, Value, blocks, compact, reshaped

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def values(draw: st.DrawFn) -> Value:
    """A value whose entries vary along some of its dimensions."""
    shape = tuple(draw(SHAPES))
    core = [size if draw(st.booleans()) else 1 for size in shape]
    entries = draw(st.lists(st.integers(-2, 9), min_size=int(np.prod(core)), max_size=int(np.prod(core))))
    return Value(compact(np.array(entries, dtype=np.int64).reshape(core)), shape)


def whole(value: Value) -> IntArray:
    """Every entry, written out."""
    return np.broadcast_to(value.core, value.shape)


def untouched(entries: IntArray, dim: int) -> IntArray:
    return entries


@given(values(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_reshape_is_that_of_the_entries(value: Value, random: object) -> None:
    size = int(np.prod(value.shape))
    factors = [f for f in range(1, size + 1) if size % f == 0]
    first = random.choice(factors)  # type: ignore[attr-defined]
    for shape in ([first, size // first], [size], [1, size // first, 1, first]):
        assert np.array_equal(whole(reshaped(value, shape, untouched)), whole(value).reshape(shape))


@given(values())
@settings(max_examples=100, deadline=None)
def test_a_core_is_as_small_as_its_pattern(value: Value) -> None:
    entries = whole(value)
    assert value.varying == tuple(d for d in range(entries.ndim) if not (entries == np.take(entries, [0], axis=d)).all())


@given(SHAPES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_blocks_hold_the_same_entries_on_both_sides(old: list[int], random: object) -> None:
    new = list(old)
    random.shuffle(new)  # type: ignore[attr-defined]
    found = blocks(old, new)
    assert [s for _, _, sizes in found for s in sizes] == new
    assert [d for start, stop, _ in found for d in range(start, stop)] == list(range(len(old)))
    assert all(np.prod(old[start:stop]) == np.prod(sizes) for start, stop, sizes in found)


def test_a_split_is_asked_about_only_where_channels_come_to_lie_on_two_dimensions() -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def split(entries: IntArray, dim: int) -> IntArray:
        asked.append((entries.shape, dim))
        return np.broadcast_to(entries[:, :1], entries.shape)

    channels = Value.along(np.arange(6), (1, 6, 5, 5), 1)
    assert reshaped(channels, (1, 6, 25), split).vector(1) is not None
    assert not asked
    parted = reshaped(channels, (1, 2, 3, 5, 5), split)
    assert asked == [((1, 2, 3), 1)]
    assert parted.varying == (2,)


def test_the_same_view_of_the_same_entries_is_recognised() -> None:
    square = Value(np.arange(9).reshape(3, 3), (3, 3), "w")
    assert square.same(Value(square.core[:], (3, 3), "w"))
    assert not square.same(Value(square.core.T, (3, 3), "w"))
    assert not square.same(Value(square.core[:2], (2, 3), "w"))
    assert not square.same(Value(square.core.copy(), (3, 3), "w"))
