"""A device elsewhere as a search sees it: its agent is a thread here, and comes, stays away, or vanishes."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import DeviceAwayError, DeviceError, MeasurementError
from automl_prune.latency.blocks import REFERENCE
from automl_prune.latency.building import full_network
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.gauge import Gauge
from automl_prune.latency.remote import RemoteDevice, ago
from automl_prune.latency.runtimes.base import check_runs
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work
from automl_prune.space import ChannelSpace
from automl_prune.storage.memory.devices import MemoryDevices
from automl_prune.testing.store_devices import GOOD, HOW, PI, bring, claimed

WORKS: list[Work] = [REFERENCE.signature.at(8, width) for width in range(1, 131)]
Found = dict[Work, Timing]
OURS = DeviceDescription({**PI.fingerprint, "agent": "t/pi"}, PI.runtimes)


def device(store: MemoryDevices, name: str = "pi", **options: Any) -> RemoteDevice:
    return RemoteDevice(store, "t", name, **{"silent_seconds": 60.0, "poll_seconds": 0.01, **options})


@pytest.fixture
def store() -> MemoryDevices:
    found = MemoryDevices()
    found.register("t", "pi", PI)
    found.register("t", "nano", PI)
    return found


def hush(store: MemoryDevices) -> None:
    """Nothing was heard of the device for two hours."""
    store._devices["t", "pi"].last_seen_at -= timedelta(hours=2)


@pytest.fixture
def agent(store: MemoryDevices) -> Iterator[Callable[..., None]]:
    """Starts an agent that reports what it is told to, until the test is over."""
    over, threads = threading.Event(), []

    def start(outcome: Callable[[Work], dict[str, Any]] = lambda work: {"timing": GOOD}) -> None:
        def work() -> None:
            while not over.wait(0.002):
                for one in claimed(store, most=8):
                    bring(store, one, conditions=one.conditions, **{"timing": None, **outcome(one.work)})

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


def test_everything_is_timed_by_the_agent(store: MemoryDevices, agent: Callable[..., None]) -> None:
    agent()
    found: Found = {}
    device(store, search_id="srch_1").time(WORKS, HOW, found.__setitem__)
    assert found == dict.fromkeys(WORKS, GOOD)
    assert store.device("t", "pi").measured == len(WORKS)


def test_unknown_devices_are_refused_with_those_that_are_known(store: MemoryDevices) -> None:
    with pytest.raises(DeviceError, match=r"No device is called 'pi5'; known: local, nano, pi\."):
        device(store, "pi5").describe()
    with pytest.raises(DeviceError, match="No device"):
        RemoteDevice(store, "another", "pi", silent_seconds=5).describe()


def test_what_is_kept_of_a_device_is_read_by_its_own_tenants_searches_alone(store: MemoryDevices) -> None:
    store.register("u", "pi", PI)
    keys = {device(store, name).describe().key(HOW) for name in ("pi", "nano")}
    keys |= {RemoteDevice(store, "u", "pi", silent_seconds=5).describe().key(HOW), PI.key(HOW)}
    assert len(keys) == 4


def test_a_silent_device_is_refused_with_what_to_do(store: MemoryDevices) -> None:
    assert device(store).describe() == OURS
    hush(store)
    with pytest.raises(DeviceError, match=r"'pi' was last heard of 2 h ago; start 'automl-prune agent --name pi' there"):
        device(store).describe()


def test_a_search_waits_for_a_silent_device_and_says_so(store: MemoryDevices) -> None:
    said: list[str] = []

    def waits(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            store.register("t", "pi", PI)

    hush(store)
    assert device(store, patience_seconds=600, waits=waits).describe() == OURS
    assert re.fullmatch(r"waiting for 'pi', last heard of at \d\d:\d\d:\d\d UTC", said[0])
    assert len(set(said)) == 1, "it is said once"


def test_work_of_an_agent_that_vanished_is_done_once_it_is_back(store: MemoryDevices, agent: Callable[..., None]) -> None:
    taken: list[str] = []

    def waits(_: str) -> None:
        if len(taken) == 3:
            store.register("t", "pi", PI)
            agent()
        taken.append("")

    def vanish() -> None:
        while not taken:
            taken.extend(one.id for one in claimed(store, most=2, lease=600))
        taken.pop()

    thread = threading.Thread(target=vanish)
    thread.start()
    found: Found = {}
    device(store, silent_seconds=0.05, patience_seconds=600, waits=waits).time(WORKS[:5], HOW, found.__setitem__)
    thread.join()
    assert set(found) == set(WORKS[:5])


def test_patience_ends(store: MemoryDevices) -> None:
    began = time.monotonic()
    store.register("t", "pi", PI)
    with pytest.raises(DeviceAwayError, match="last heard of") as away:
        device(store, silent_seconds=0.05, patience_seconds=0.2).time(WORKS[:2], HOW, lambda work, timing: None)
    assert 0.2 < time.monotonic() - began < 60
    assert (away.value.device, away.value.since) == ("pi", store.device("t", "pi").last_seen_at)
    store.register("t", "pi", PI)
    assert claimed(store) == [], "nobody waits for it any more"


def test_what_cannot_be_timed_says_why(store: MemoryDevices, agent: Callable[..., None]) -> None:
    agent(lambda work: {"error": "No such operator."} if work == WORKS[3] else {"timing": GOOD})
    said = r"Device 'pi' could not time a block .*'outputs': 4.*, asked 3 times: No such operator\."
    found: Found = {}
    with pytest.raises(MeasurementError, match=said):
        device(store).time(WORKS[:20], HOW, found.__setitem__)
    assert claimed(store) == []
    assert store.device("t", "pi").failed == 3
    assert len(found) == 19, "the others were timed, and are kept"


def test_what_fails_once_is_asked_for_again(store: MemoryDevices, agent: Callable[..., None]) -> None:
    failures = iter(["Out of memory.", "Out of memory."])

    def outcome(work: Work) -> dict[str, Any]:
        said = next(failures, None) if work == WORKS[3] else None
        return {"error": said} if said else {"timing": GOOD}

    agent(outcome)
    found: Found = {}
    device(store).time(WORKS[:8], HOW, found.__setitem__)
    assert found == dict.fromkeys(WORKS[:8], GOOD)


def test_what_another_version_times_is_never_kept_for_the_one_before(
    store: MemoryDevices, agent: Callable[..., None], tmp_path: Path
) -> None:
    network = TracedNetwork.registered("digits_resnet", 10)
    space, whole = ChannelSpace.of(network.architecture), full_network("digits_resnet", 10, network.architecture)
    store.register("t", "pi", PI)
    gauge = Gauge(device(store), HOW, whole, space, tmp_path)
    store.register("t", "pi", DeviceDescription(PI.fingerprint, {**PI.runtimes, "torch": "99"}))
    agent()
    with pytest.raises(DeviceError, match=r"had torch 2\.6 when .*, and has torch 99 now"):
        gauge.time([gauge.network])
    assert not gauge.times.file.exists()
    gauge = Gauge(device(store), HOW, whole, space, tmp_path)
    assert gauge.time([gauge.network]) == [GOOD]


@pytest.mark.parametrize(("back", "said"), [(False, "No device is called 'pi'"), (True, "Device 'pi' was removed")])
def test_a_device_that_is_removed_is_not_waited_for(store: MemoryDevices, back: bool, said: str) -> None:
    looks = iter(range(5))

    def check() -> None:
        if next(looks, None) == 3:
            store.remove("t", "pi")
            if back:
                store.register("t", "pi", PI)

    with pytest.raises(DeviceError, match=said):
        device(store, check=check).time(WORKS, HOW, lambda work, timing: None)


class StopError(Exception):
    pass


def test_a_wait_ends_when_the_search_is_to_stop(store: MemoryDevices) -> None:
    looks = iter(range(5))

    def check() -> None:
        if next(looks, None) is None:
            raise StopError

    with pytest.raises(StopError):
        device(store, check=check).time(WORKS, HOW, lambda work, timing: None)
    assert claimed(store) == []


def test_a_device_without_the_runtime_is_refused() -> None:
    with pytest.raises(DeviceError, match="Device 'pi' has no runtime 'torch-cuda'; it has onnxruntime, torch") as error:
        check_runs(PI, Conditions(runtime="torch-cuda"), "pi")
    assert error.value.pointer == "/latency/runtime"


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"fingerprint": {}}, {"fingerprint": {}, "runtimes": {}, "x": {}}, {"fingerprint": [], "runtimes": {}},
        {"fingerprint": {"a": 1.5}, "runtimes": {}}, {"fingerprint": {"a": True}, "runtimes": {}},
        {"fingerprint": {"a": None}, "runtimes": {}}, {"fingerprint": {}, "runtimes": {"torch": 2}},
        {"fingerprint": {"a": "x" * 301}, "runtimes": {}}, {"fingerprint": {"x" * 301: 1}, "runtimes": {}},
        {"fingerprint": {str(i): i for i in range(33)}, "runtimes": {}}, {"fingerprint": {"a": 10**200}, "runtimes": {}},
    ],
)  # fmt: skip
def test_descriptions_of_strangers_are_checked(data: object) -> None:
    with pytest.raises(MeasurementError):
        DeviceDescription.from_json(data)


def test_descriptions_travel_as_they_are() -> None:
    assert DeviceDescription.from_json(PI.to_json()) == PI


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (90, "90 s"), (180, "3 min"), (7300, "2 h"), (1e6, "12 days")])
def test_how_long_ago_is_said_in_words(seconds: float, text: str) -> None:
    assert ago(seconds) == f"{text} ago"
