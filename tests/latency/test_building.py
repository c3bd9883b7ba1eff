"""From measurements to predictions, on a device whose times are known exactly."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from automl_prune.errors import DeviceError
from automl_prune.latency import conditions
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.building import build, full_network, known
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import OnTiming
from automl_prune.latency.gauge import AT_ONCE, Gauge
from automl_prune.latency.model import Check
from automl_prune.latency.sampling import CHECKED, FITTED, random_candidates
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.times import MOST_TRIES
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.space import ChannelSpace
from tests.latency.clockwork import Clockwork

NAME = "digits_resnet"


@pytest.fixture(scope="module")
def network() -> TracedNetwork:
    return TracedNetwork.registered(NAME, 10)


@pytest.fixture(scope="module")
def space(network: TracedNetwork) -> ChannelSpace:
    return ChannelSpace.of(network.architecture, round_to=2)


def gauge_of(device: Clockwork, space: ChannelSpace, folder: Path) -> Gauge:
    return Gauge(device, Conditions(), full_network(NAME, 10, device.network.architecture), space, folder)


def test_a_network_that_is_the_sum_of_its_blocks_is_predicted_exactly(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Clockwork("clock", network)
    found = build(gauge_of(device, space, tmp_path), network.architecture)
    assert found.trusted
    assert found.check.mape < 0.01
    assert found.check.r2 > 0.99
    assert found.check.rank_correlation > 0.99
    fresh = random_candidates(space, 20, seed=99)
    gauge = gauge_of(device, space, tmp_path)
    assert found.model(space.array(fresh)) == pytest.approx(gauge.measure(fresh), rel=0.02)
    assert found.fastest_ms < found.full_ms


@pytest.mark.parametrize(("choices", "trusted"), [((24, 40, 64), False), ((8, 16, 24, 40, 48, 64), True)])
def test_predictions_are_trusted_that_were_checked_on_ten_networks(
    choices: tuple[int, ...], trusted: bool, network: TracedNetwork, tmp_path: Path
) -> None:
    whole = ChannelSpace.of(network.architecture)
    space = ChannelSpace(whole.names, tuple(choices if width == 64 else (width,) for width in whole.full.widths))
    assert len(choices) ** 2 == np.prod([len(own) for own in space.choices])
    found = build(gauge_of(Clockwork("clock", network), space, tmp_path), network.architecture)
    assert found.check.mape < 0.05
    assert (len(found.check.measured) >= 10) is trusted
    assert found.trusted is trusted


@pytest.mark.parametrize("measured", [[1.0, 1.0, 1.0, 1.0], [1.0, 2.0]])
def test_a_check_of_networks_that_do_not_differ_says_nothing_of_their_order(measured: list[float]) -> None:
    check = Check.of(np.array(measured) * 1.5, np.array(measured))
    assert (check.mape, check.worst, check.r2, check.rank_correlation) == (0.5, 0.5, 0.0, 0.0)
    json.dumps(check.to_json(), allow_nan=False)


def test_what_was_timed_is_never_timed_again(network: TracedNetwork, space: ChannelSpace, tmp_path: Path) -> None:
    first = build(gauge_of(Clockwork("clock", network), space, tmp_path), network.architecture)
    again = Clockwork("clock", network)
    gauge = gauge_of(again, space, tmp_path)
    assert known(gauge, network.architecture)
    assert build(gauge, network.architecture).to_json() == first.to_json()
    assert again.asked == []


class Shared(Clockwork):
    """Whenever a network was timed, other searches bring another timing of what was timed first, each a little slower."""

    def __init__(self, network: TracedNetwork, space: ChannelSpace, folder: Path) -> None:
        super().__init__("clock", network)
        self.gauge = gauge_of(self, space, folder)
        self.slower = 1.0

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        super().time(works, conditions, done)
        first = next((work for work in self.asked if isinstance(work, Block)), None)
        if first is not None and isinstance(works[-1], NetworkWork):
            self.slower *= 1.01
            timing, times = self.gauge.times[first], self.slower
            self.gauge.times.add(first, replace(timing, ms=timing.ms * times, ratio=timing.ratio * times))


def test_a_model_can_be_had_again_whatever_others_add_to_the_times(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Shared(network, space, tmp_path)
    found = build(device.gauge, network.architecture)
    assert device.gauge.times.measured > len(device.asked), "others were meant to add something"
    again = gauge_of(Clockwork("clock", network), space, tmp_path)
    same = known(again, network.architecture, found.mark)
    assert same is not None
    assert same.to_json() == found.to_json()
    work = space.array(random_candidates(space, 20, seed=99))
    assert (same.model(work) == found.model(work)).all()
    again.afresh(space.full)
    later = known(again, network.architecture)
    assert later is not None
    assert later.mark.size > found.mark.size
    kept = known(again, network.architecture, found.mark)
    assert kept is not None
    assert kept.mark == found.mark


def test_a_device_that_dies_half_way_goes_on_where_it_was(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    whole = Clockwork("clock", network)
    expected = build(gauge_of(whole, space, tmp_path / "undisturbed"), network.architecture)
    dying = Clockwork("clock", network, dies_after=40)
    gauge = gauge_of(dying, space, tmp_path / "disturbed")
    with pytest.raises(DeviceError, match="gone"):
        build(gauge, network.architecture)
    assert not known(gauge, network.architecture)
    with gauge.times.file.open("a") as stream:
        stream.write('{"work": {"kind": "conv"')  # a line that a crash cut off
    back = Clockwork("clock", network)
    found = build(gauge_of(back, space, tmp_path / "disturbed"), network.architecture)
    assert replace(found, mark=expected.mark).to_json() == expected.to_json()
    assert len(back.asked) == len(whole.asked) - 40


def test_another_runtime_version_condition_or_way_of_timing_shares_nothing(
    network: TracedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Clockwork("clock", network)
    description = device.describe()
    keys = {description.key(c) for c in (Conditions(), Conditions(threads=2), Conditions(batch=8))}
    newer = type(description)(description.fingerprint, {"torch": "2"})
    keys.add(newer.key(Conditions()))
    monkeypatch.setattr(conditions, "TIMED_AS", 0)
    keys.add(description.key(Conditions()))
    assert len(keys) == 5


def test_a_device_that_tables_do_not_describe_is_not_trusted(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Clockwork("clock", network, fault=(1.0, 2.0, 0.5))
    found = build(gauge_of(device, space, tmp_path), network.architecture)
    assert found.check.mape > 0.1
    assert not found.trusted
    with gauge_of(device, space, tmp_path).times.file.open() as stream:
        lines = stream.readlines()
    networks = [number for number, line in enumerate(lines) if "widths" in line]
    gauge_of(device, space, tmp_path).times.file.write_text("".join(lines[: networks[FITTED + CHECKED + 1]]))
    asked = len(device.asked)
    assert known(gauge_of(device, space, tmp_path), network.architecture) is None  # the second half would have to be timed
    assert len(device.asked) == asked
    assert 0 <= len(networks) - (1 + 2 * FITTED + CHECKED) <= 2  # it was given more to fit to before it was given up


def test_a_space_of_few_networks_is_checked_on_those_that_it_has(network: TracedNetwork, tmp_path: Path) -> None:
    tiny = ChannelSpace.of(network.architecture, round_to=32)
    every = set(itertools.product(*tiny.choices)) - {tiny.full.widths}
    assert len(every) < 9
    device = Clockwork("clock", network, fault=(1.0, 3.0, 0.3))
    found = build(gauge_of(device, tiny, tmp_path), network.architecture)
    assert not found.trusted
    assert found.check.mape > 0
    asked = [dict(work.widths) for work in device.asked if isinstance(work, NetworkWork)]
    assert len(asked) == len({str(sorted(widths.items())) for widths in asked}) == 1 + len(every)
    exact = build(gauge_of(Clockwork("exact", network), tiny, tmp_path), network.architecture)
    assert exact.check.mape < 0.01
    assert not exact.trusted, "two networks are no check"


def test_what_did_not_settle_is_timed_again_a_few_times(network: TracedNetwork, space: ChannelSpace, tmp_path: Path) -> None:
    device = Clockwork("clock", network, settles_at=2)
    gauge = gauge_of(device, space, tmp_path)
    narrow = gauge.work(space.narrowest)
    timing = gauge.time([narrow])[0]
    assert timing.settled
    assert device.asked == [narrow, narrow]
    never = Clockwork("never", network, settles_at=1000)
    timing = gauge_of(never, space, tmp_path).time([narrow])[0]
    assert not timing.settled
    assert never.asked == [narrow] * MOST_TRIES
    assert gauge_of(never, space, tmp_path).time([narrow]) == [timing]
    assert never.asked == [narrow] * MOST_TRIES


def test_searches_at_the_same_time_use_what_the_other_has_just_timed(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    one, other = Clockwork("clock", network), Clockwork("clock", network)
    first, second = (gauge_of(device, space, tmp_path) for device in (one, other))
    works: list[Work] = [REFERENCE.signature.at(8, width) for width in range(1, 251)]
    assert second.times.missing(works) == works

    def both(done: int, of: int) -> None:
        if done == 1:
            second.time(works)

    first.time(works, both)
    assert len(other.asked) == 249
    assert len(one.asked) <= AT_ONCE


def test_milliseconds_do_not_hang_on_one_timing_of_the_full_network(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Clockwork("clock", network)
    gauge = gauge_of(device, space, tmp_path)
    whole = device.network_ms(gauge.network)
    gauge.times.add(gauge.network, Timing(5 * whole, 0.1, 1.0, 0.01, 5 * whole, 20, settled=True))
    assert build(gauge, network.architecture).full_ms == pytest.approx(whole)


def test_the_fastest_network_need_not_be_the_narrowest(network: TracedNetwork, tmp_path: Path) -> None:
    space = ChannelSpace.of(network.architecture, round_to=1, min_ratio=0.8)
    device = Clockwork("clock", network)  # widths that are no multiples of 16 take twice as long
    gauge = gauge_of(device, space, tmp_path)
    found = build(gauge, network.architecture)
    assert found.fastest != space.narrowest
    assert found.fastest_ms == pytest.approx(device.network_ms(gauge.work(found.fastest)))
    assert found.fastest_ms < 0.9 * device.network_ms(gauge.work(space.narrowest))
    fresh = random_candidates(space, 30, seed=7)
    assert found.fastest_ms <= min(device.network_ms(gauge.work(one)) for one in fresh)


def test_predictions_are_made_by_the_thousand(network: TracedNetwork, space: ChannelSpace, tmp_path: Path) -> None:
    found = build(gauge_of(Clockwork("clock", network), space, tmp_path), network.architecture)
    widths = space.array(random_candidates(space, 500, seed=1))
    together = found.model(widths)
    assert together == pytest.approx(np.concatenate([found.model(row[None]) for row in widths]))


def test_random_candidates_are_distinct_and_of_all_sizes(space: ChannelSpace) -> None:
    drawn = random_candidates(space, 36, seed=0)
    assert len(set(drawn)) == 36
    assert drawn == random_candidates(space, 36, seed=0)
    parts = space.array(drawn).sum(axis=1) / sum(space.full.widths)
    assert parts.min() < 0.4
    assert parts.max() > 0.8
