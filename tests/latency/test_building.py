"""From measurements to predictions, on a device whose times are known exactly."""

import json
from pathlib import Path

import numpy as np
import pytest

from automl_prune.errors import DeviceError
from automl_prune.latency.building import CHECKED, FITTED, Gauge, build, full_network, known, random_candidates
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.model import Check
from automl_prune.latency.stopwatch import TracedNetwork
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
    assert found.to_json() == expected.to_json()
    assert len(back.asked) == len(whole.asked) - 40


def test_another_runtime_version_or_condition_shares_nothing(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Clockwork("clock", network)
    description = device.describe()
    keys = {description.key(c) for c in (Conditions(), Conditions(threads=2), Conditions(batch=8))}
    newer = type(description)(description.fingerprint, {"torch": "2"})
    assert len(keys | {newer.key(Conditions())}) == 4


def test_a_device_that_tables_do_not_describe_is_not_trusted(
    network: TracedNetwork, space: ChannelSpace, tmp_path: Path
) -> None:
    device = Clockwork("clock", network, fault=(1.0, 2.0, 0.5))
    found = build(gauge_of(device, space, tmp_path), network.architecture)
    assert found.check.mape > 0.1
    assert not found.trusted
    with gauge_of(device, space, tmp_path).times.file.open() as stream:
        first_half = stream.readlines()[:-FITTED]
    gauge_of(device, space, tmp_path).times.file.write_text("".join(first_half))
    asked = len(device.asked)
    assert known(gauge_of(device, space, tmp_path), network.architecture) is None  # the second half would have to be timed
    assert len(device.asked) == asked
    networks = [w for w in device.asked if not hasattr(w, "kind")]
    assert len(networks) == 1 + 2 * FITTED + CHECKED  # it was given more to fit to before it was given up


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
