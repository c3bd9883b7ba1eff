import numpy as np

from automl_prune.architecture.channel_ids import FIXED, INPUT, ZERO, ChannelIds, Occurrences
from automl_prune.architecture.model import ChannelGroup

SHAPES = {"a.weight": (4, 3), "b.weight": (6, 4), "c.weight": (2, 6)}


def chain() -> ChannelIds:
    """Three layers, one after the other; the last one's outputs are left open."""
    ids = ChannelIds()
    ids.attach("a.weight", 1, "in", "a", np.full(3, INPUT))
    first = ids.attach("a.weight", 0, "out", "a", ids.mint(4))
    ids.attach("b.weight", 1, "in", "b", first)
    second = ids.attach("b.weight", 0, "out", "b", ids.mint(6))
    ids.attach("c.weight", 1, "in", "c", second)
    ids.attach("c.weight", 0, "out", "c", ids.mint(2))
    return ids


def groups(ids: ChannelIds) -> dict[str, ChannelGroup]:
    return {g.name: g for g in ids.collect(SHAPES, set(SHAPES)).groups}


def test_what_is_minted_together_and_lies_in_the_same_places_is_a_group() -> None:
    found = groups(chain())
    assert {name: (g.width, g.members) for name, g in found.items()} == {
        "input": (3, ("a",)),
        "a": (4, ("a", "b")),
        "b": (6, ("b", "c")),
        "c": (2, ("c",)),
    }
    assert found["input"].frozen == "network input"


def test_united_ids_are_one_unit_and_the_first_reason_stays() -> None:
    ids = chain()
    a, b = (ids.axes[name, 0].ids for name in ("a.weight", "b.weight"))
    ids.unite(a, b[:4], "add")
    ids.freeze(a[:1], "first")
    ids.freeze(b[:4], "second")
    found = ids.collect(SHAPES, set(SHAPES)).groups
    assert [(g.name, g.units, g.frozen) for g in found if g.name[0] in "ab"] == [
        ("a#1", 1, "first"),
        ("a#2", 3, "second"),
        ("b", 2, None),
    ]


def test_ids_that_meet_solid_ones_are_frozen_for_it() -> None:
    ids = chain()
    ids.unite(ids.axes["a.weight", 0].ids, np.array([[ZERO], [ZERO], [ZERO], [ZERO]])[:, 0], "add")
    ids.unite(ids.axes["b.weight", 0].ids, np.array([ids.solid("topk", "made by topk")]), "mul")
    found = groups(ids)
    assert found["a"].frozen == "meets padding entries in add"
    assert found["b"].frozen == "meets topk entries in mul"


def test_groups_with_nothing_to_choose_are_frozen() -> None:
    ids = ChannelIds()
    ids.attach("a.weight", 0, "out", "a", ids.mint(1).repeat(4))
    ids.attach("b.weight", 0, "out", "b", ids.mint(1))
    ids.attach("c.weight", 0, "scale", "c", ids.mint(2))
    assert [g.frozen for g in ids.collect(SHAPES, set()).groups] == [
        "its 4 channels can only be cut all at once",
        "a single channel",
        "put out by no layer",
    ]


def test_axes_of_fixed_entries_are_not_described() -> None:
    ids = chain()
    ids.attach("d.weight", 0, "in", "d", np.full(5, FIXED))
    assert {t.name for t in ids.collect(SHAPES, set(SHAPES)).tensors} == set(SHAPES)


def test_after_a_stop_everything_is_frozen() -> None:
    ids = chain()
    ids.stopped = "it branches"
    ids.attach("e.weight", 0, "out", "e", ids.mint(3))
    assert groups_of(ids, "e").frozen == "it branches"
    assert groups_of(ids, "a").frozen is None


def groups_of(ids: ChannelIds, name: str) -> ChannelGroup:
    return {g.name: g for g in ids.collect({**SHAPES, "e.weight": (3,)}, set()).groups}[name]


def test_signatures_are_equal_exactly_where_units_lie_on_the_same_axes_as_often() -> None:
    found = Occurrences.of([np.array([0, 1, 2, 3]), np.array([1, 1, 2, 2, 5]), np.array([3, 0])])
    signature = found.signature(7)
    pairs = [tuple(found.at(unit)) for unit in range(7)]
    assert pairs[1] == pairs[2] == ((0, 1), (1, 2))
    for left in range(7):
        for right in range(7):
            assert (signature[left] == signature[right]) == (pairs[left] == pairs[right])
