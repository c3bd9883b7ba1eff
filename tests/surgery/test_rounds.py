import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.architecture import ChannelGroup
from automl_prune.surgery.rounds import ROUNDS, draw_rounds


def groups_of(units: list[int]) -> list[ChannelGroup]:
    return [ChannelGroup(f"g{i}", count, count, 0, ()) for i, count in enumerate(units)]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(0, 2**32))
def test_no_group_can_hide_behind_another(units: list[int], seed: int) -> None:
    groups = groups_of(units)
    rounds = draw_rounds(groups, np.random.default_rng(seed))
    cut = [g for g in groups if g.units > 1]
    for kept in rounds:
        for name, positions in kept.items():
            group = next(g for g in groups if g.name == name)
            assert 1 <= len(positions) < group.units
            assert np.all(np.diff(positions) > 0)
            assert 0 <= positions[0] <= positions[-1] < group.units
    shares = {g.name: [len(kept[g.name]) / g.units if g.name in kept else 1.0 for kept in rounds] for g in cut}
    assert all(sum(share < 1 for share in row) >= 2 for row in shares.values())
    if len(rounds) < 2 * ROUNDS + 2:
        assert all(shares[a.name] != shares[b.name] for a, b in itertools.combinations(cut, 2))


def test_groups_of_one_unit_need_no_round() -> None:
    assert draw_rounds(groups_of([1, 1]), np.random.default_rng(0)) == []


def test_the_last_round_is_the_narrowest() -> None:
    rounds = draw_rounds(groups_of([4, 9]), np.random.default_rng(0))
    assert {name: list(units) for name, units in rounds[-1].items()} == {"g0": [0], "g1": [0]}
