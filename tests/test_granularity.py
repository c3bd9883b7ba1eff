"""Steps, limits and overrides: what they leave of a group, which of two wins, and what is refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.architecture import Architecture, Axis, ChannelGroup, Layer, Run, Tensor
from automl_prune.errors import UnknownNameError, UserError, WidthError
from automl_prune.granularity import Override
from automl_prune.networks import Preset
from automl_prune.space import ChannelSpace

SIZES = {"stem": (16, 16), "body.0": (64, 64), "body.1": (64, 64), "grouped": (96, 32), "solid": (12, 1)}
"""Width and units of each group; every layer is called as its group, but body.1 is put out by body.skip too."""


@pytest.fixture(scope="module")
def network() -> Architecture:
    groups, layers, tensors, start = [], [], [], 0
    for name, (width, units) in SIZES.items():
        groups.append(ChannelGroup(name, width, units, start, (name,)))
        axis = Axis(0, "out", (Run(start, units, width // units),))
        for layer in (name, "body.skip") if name == "body.1" else (name,):
            layers.append(Layer(layer, "conv", f"{layer}.weight", 1))
            tensors.append(Tensor(f"{layer}.weight", (width, 3), (axis,)))
        start += units
    groups.append(ChannelGroup("head", 10, 10, start, ("head",), frozen="network output"))
    return Architecture((3, 8, 8), tuple(groups), tuple(layers), tuple(tensors))


def widths(network: Architecture, *overrides: Override, **options: Any) -> dict[str, tuple[int, ...]]:
    space = ChannelSpace.of(network, overrides=overrides, **options)
    return dict(zip(space.names, space.choices, strict=True))


def test_an_override_is_about_the_groups_it_matches_and_the_rest_stays(network: Architecture) -> None:
    found = widths(network, Override("body.*", round_to=32), round_to=8)
    assert found["body.0"] == found["body.1"] == (32, 64)
    assert found["stem"] == (8, 16)


def test_layers_that_put_a_group_out_name_it_too(network: Architecture) -> None:
    found = widths(network, Override("body.skip", widths=(48, 16)), round_to=32)
    assert (found["body.0"], found["body.1"]) == ((32, 64), (16, 48, 64))


def test_the_later_override_wins_field_by_field(network: Architecture) -> None:
    wide, fine = Override("body.*", round_to=16, min_ratio=0.5), Override("body.0", round_to=8)
    assert widths(network, wide, fine)["body.0"] == (32, 40, 48, 56, 64)
    assert widths(network, wide, fine)["body.1"] == (32, 48, 64)
    with pytest.raises(UserError, match=r"'body\.0' changes nothing") as caught:
        widths(network, fine, wide)
    assert caught.value.pointer == "/search_space/overrides/0"


def test_steps_replace_a_list_and_a_list_replaces_steps(network: Architecture) -> None:
    listed, steps = Override("body.*", widths=(5,)), Override("body.0", round_to=32)
    assert widths(network, listed, steps)["body.0"] == (32, 64)
    assert widths(network, Override("body.*", round_to=32), Override("body.0", widths=(5,)))["body.0"] == (5, 64)


def test_a_cut_leaves_at_most_max_ratio(network: Architecture) -> None:
    assert widths(network, Override("body.0", max_ratio=0.5, round_to=8))["body.0"] == (8, 16, 24, 32, 64)


def test_what_is_frozen_can_be_searched_again(network: Architecture) -> None:
    preset = Preset(frozen=("body.*",), overrides=(Override("stem", round_to=4),))
    options = {"declared": preset.declared, "round_to": 8}
    assert set(widths(network, **options)) == {"stem", "grouped"}
    assert widths(network, **options)["stem"] == (4, 8, 12, 16)
    assert widths(network, Override("body.0", frozen=False), **options)["body.0"][0] == 8
    assert "body.0" not in widths(network, Override("body.*", frozen=False), Override("body.0", frozen=True), **options)
    assert "stem" not in widths(network, frozen=["stem"], **options)


def test_divisors_are_part_of_every_step(network: Architecture) -> None:
    assert widths(network, round_to=8)["grouped"] == (24, 48, 72, 96)
    with pytest.raises(WidthError, match=r"'grouped' cannot be 8 wide; allowed: 3 to 96 in steps of 3") as caught:
        widths(network, Override("stem", round_to=8), Override("grouped", widths=(48, 8)))
    assert caught.value.pointer == "/search_space/overrides/1/widths/1"


def test_every_group_that_is_not_searched_says_why(network: Architecture) -> None:
    space = ChannelSpace.of(
        network, round_to=64, frozen=["body.0"], overrides=[Override("body.*", round_to=16), Override("stem", frozen=True)]
    )
    assert space.names == ("body.1",)
    assert {k.name: (k.by, k.reason) for k in space.kept_whole} == {
        "stem": ("pattern", "kept whole by 'stem' in overrides"),
        "body.0": ("pattern", "kept whole by 'body.0' in frozen"),
        "grouped": ("granularity", "only its full width is left by round_to 64 and divisor 3"),
        "solid": ("granularity", "its channels can only be removed at once"),
    }
    limited = ChannelSpace.of(network, round_to=16, min_ratio=0.8, overrides=[Override("stem", round_to=1)])
    assert limited.names == ("stem",)
    assert limited.kept_whole[0].reason == "only its full width is left by round_to 16 and min_ratio 0.8"


@pytest.mark.parametrize(
    ("override", "pointer", "said"),
    [
        (Override("body.2"), "", "says nothing"),
        (Override("body.2", round_to=2), "/match", "did you mean 'body"),
        (Override("body.0", widths=(4,), round_to=2), "/widths", "round_to cannot hold too"),
        (Override("body.0", widths=()), "/widths", "a list of whole numbers"),
        (Override("body.0", widths=(65,)), "/widths/0", "allowed: 1 to 64"),
        (Override("body.0", widths=(64,)), "/widths", "leaves nothing to search in body.0"),
        (Override("body.0", frozen=True, min_ratio=0.5), "/frozen", "leave out frozen, or all else"),
        (Override("body.0", min_ratio=0.6, max_ratio=0.5), "/max_ratio", "at least 0.6 and at most 0.5"),
        (Override("body.0", max_ratio=0.1), "/max_ratio", "at least 0.25 and at most 0.1"),
        (Override("body.0", min_ratio=1.5), "/min_ratio", "between 0 and 1"),
        (Override("body.0", max_ratio=0.0), "/max_ratio", "above 0"),
        (Override("body.0", round_to=0), "/round_to", "from 1 up"),
        (Override("body.?", round_to=128), "/round_to", "only its full width is left by round_to 128"),
        (Override("solid", min_ratio=0.5), "/min_ratio", "its channels can only be removed at once"),
        (Override("head", round_to=2), "/match", "head: network output"),
        (Override("stem", round_to=2), "", "stem is frozen elsewhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(network: Architecture, override: Override, pointer: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        widths(network, override, min_ratio=0.25, declared=Preset(frozen=("stem",)).declared)
    assert caught.value.pointer == f"/search_space/overrides/0{pointer}"
    assert said in str(caught.value)


def test_faults_of_a_preset_point_to_it(network: Architecture) -> None:
    with pytest.raises(UnknownNameError) as caught:
        widths(network, declared=[Override("neck", round_to=8)])
    assert caught.value.pointer == "/search_space/preset"
    with pytest.raises(UserError, match=r"at least 0\.8 and at most 0\.5") as clash:
        widths(network, Override("body.0", min_ratio=0.8), declared=[Override("body.*", max_ratio=0.5)])
    assert clash.value.pointer == "/search_space/overrides/0/min_ratio"


rules = st.builds(
    lambda match, form: Override(match, **form),
    st.sampled_from(["body.*", "body.skip", "stem", "grouped", "[bg]*"]),
    st.one_of(
        st.fixed_dictionaries({}, optional={"round_to": st.integers(1, 40), "min_ratio": st.floats(0, 0.5)}),
        st.fixed_dictionaries({"max_ratio": st.floats(0.5, 1)}),
        st.fixed_dictionaries({"widths": st.lists(st.integers(1, 5).map(lambda n: 3 * n), min_size=1)}),
        st.fixed_dictionaries({"frozen": st.booleans()}),
    ),
)


@settings(max_examples=150)
@given(
    declared=st.lists(rules.filter(Override.said), max_size=3),
    round_to=st.integers(1, 40),
    min_ratio=st.floats(0, 0.5),
    frozen=st.lists(st.sampled_from(["body.0", "gr*"]), max_size=2),
)
def test_laws_of_every_space(
    network: Architecture, declared: list[Override], round_to: int, min_ratio: float, frozen: list[str]
) -> None:
    space = ChannelSpace.of(
        network, round_to=round_to, min_ratio=min_ratio, frozen=frozen, declared=declared, allow_empty=True
    )
    assert sorted([*space.names, *(k.name for k in space.kept_whole)]) == sorted(SIZES)
    for name, choices in zip(space.names, space.choices, strict=True):
        group = network.group(name)
        assert choices[-1] == group.width
        assert list(choices) == sorted(set(choices))
        assert all(1 <= w <= group.width and w % group.divisor == 0 for w in choices)
        assert len(choices) > 1
    assert space.narrowest in space
    assert space.uniform(0.5) in space


@settings(max_examples=60)
@given(
    round_to=st.integers(1, 16),
    times=st.integers(1, 4),
    limits=st.tuples(*[st.floats(0, 0.5)] * 2, *[st.floats(0.5, 1)] * 2),
)
def test_narrower_rules_leave_a_subset(
    network: Architecture, round_to: int, times: int, limits: tuple[float, float, float, float]
) -> None:
    low, high = sorted(limits[:2])
    less, more = sorted(limits[2:])
    loose = Override("*", round_to=round_to, min_ratio=low, max_ratio=more)
    tight = Override("*", round_to=round_to * times, min_ratio=high, max_ratio=less)
    wide, narrow = (ChannelSpace.of(network, declared=[o], allow_empty=True) for o in (loose, tight))
    allowed = dict(zip(wide.names, wide.choices, strict=True))
    assert all(set(c) <= set(allowed[name]) for name, c in zip(narrow.names, narrow.choices, strict=True))
