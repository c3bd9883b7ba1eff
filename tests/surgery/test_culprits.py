import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from automl_prune.surgery.culprits import culprits

NAMES = [f"group{i}" for i in range(64)]


def blamed(bad: Sequence[frozenset[str]]) -> tuple[list[frozenset[str]], int]:
    """What is found in a first look at 64 suspects of whom the sets in ``bad`` fail, and how many tests that took."""
    asked = 0

    def test(names: Sequence[str]) -> str | None:
        nonlocal asked
        asked += 1
        return "wrong" if any(group <= set(names) for group in bad) else None

    return [frozenset(names) for names, _ in culprits(test, NAMES, "wrong")], asked


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=6))
def test_everyone_who_fails_alone_is_found(names: set[str]) -> None:
    found, asked = blamed([frozenset([name]) for name in names])
    assert sorted(found, key=sorted) == sorted((frozenset([name]) for name in names), key=sorted)
    assert asked <= 2 * len(names) * math.log2(len(NAMES))


@given(st.sets(st.sampled_from(NAMES), min_size=2, max_size=4))
def test_those_who_fail_only_together_are_found_together(names: set[str]) -> None:
    found, asked = blamed([frozenset(names)])
    assert found == [frozenset(names)]
    assert asked <= 6 * len(names) * math.log2(len(NAMES))


def test_what_cannot_be_narrowed_down_is_blamed_as_a_whole() -> None:
    assert list(culprits(lambda names: None, NAMES, "once")) == [(tuple(NAMES), "once")]
