"""The behaviour of a DeviceStore; a subclass gives the fixture ``devices``, an empty one for each test."""

from dataclasses import replace
from typing import Any

import pytest

from automl_prune.errors import (
    AnotherAgentError,
    DeviceChangedError,
    LateOutcomeError,
    MeasurementError,
    NotFoundError,
    StateConflictError,
    UserError,
)
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.registered import DeviceStore, Measurement, MeasurementState
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work

PI = DeviceDescription({"processor": "Cortex-A72", "cores": 4}, {"torch": "2.6", "onnxruntime": "1.20"})
HOW = Conditions(threads=2)
WORKS: list[Work] = [*(REFERENCE.signature.at(16, width) for width in (8, 16, 24)), NetworkWork("n", 10, "d", (("a", 3),))]
GOOD = Timing(1.5, 0.1, 0.7, 0.05, 2.1, 40, settled=True)


def put(devices: DeviceStore, works: list[Work] = WORKS, *, tenant: str = "t", seconds: float = 60) -> list[Measurement]:
    """Ask the device ``pi`` for some work; it is registered where it is not."""
    if "pi" not in [device.name for device in devices.devices(tenant)]:
        devices.register(tenant, "pi", PI)
    return devices.add(tenant, "pi", HOW, works, wanted_seconds=seconds, search_id="srch_1")


def epoch(devices: DeviceStore, tenant: str = "t", device: str = "pi") -> str:
    """That of the agent that registered last."""
    return devices.device(tenant, device).epoch or ""


def claimed(devices: DeviceStore, *, most: int = 10, lease: float = 60, **options: Any) -> list[Measurement]:
    """Claim as the agent of ``pi``."""
    return devices.claim("t", "pi", **{"epoch": epoch(devices), "most": most, "lease_seconds": lease, **options})


def bring(
    devices: DeviceStore, one: Measurement, *, attempt: int | None = None, timing: Timing | None = GOOD,
    conditions: Conditions = HOW, error: str | None = None, tenant: str = "t", device: str = "pi", by: str | None = None,
) -> Measurement:  # fmt: skip
    """Report what came of a measurement, as the device's agent."""
    attempt, by = one.attempt if attempt is None else attempt, epoch(devices, tenant, device) if by is None else by
    return devices.record(tenant, device, one.id, attempt, epoch=by, conditions=conditions, timing=timing, error=error)


def ended(devices: DeviceStore, batch: list[Measurement]) -> list[Measurement]:
    """What a driver sees of its batch."""
    return devices.results("t", batch[0].batch, wanted_seconds=60)


class DeviceContract:
    """What a store of devices does, whatever it is made of."""

    def test_a_device_is_known_once_it_is_registered(self, devices: DeviceStore) -> None:
        made = devices.register("t", "pi", PI)
        assert (made.tenant, made.name, made.description) == ("t", "pi", PI)
        assert (made.measured, made.failed, made.noise) == (0, 0, None)
        assert made.registered_at <= made.last_seen_at
        assert 0 <= made.silent_seconds < 5
        devices.register("t", "Nano_2", PI)
        other = DeviceDescription({"processor": "x"}, {})
        again = devices.register("t", "pi", other)
        assert (again.description, again.registered_at) == (other, made.registered_at)
        assert again.last_seen_at > made.last_seen_at
        assert [device.name for device in devices.devices("t")] == ["Nano_2", "pi"]
        assert devices.device("t", "pi").description == other

    def test_tenants_do_not_see_each_others_devices(self, devices: DeviceStore) -> None:
        batch = put(devices)
        theirs = devices.register("u", "pi", PI).epoch or ""
        assert len(devices.devices("u")) == 1
        assert devices.devices("v") == []
        assert devices.claim("u", "pi", epoch=theirs, most=10, lease_seconds=60) == []
        one = claimed(devices)[0]
        for call in (
            lambda: devices.device("v", "pi"),
            lambda: devices.claim("v", "pi", epoch=theirs, most=1, lease_seconds=1),
            lambda: devices.has_work("v", "pi"),
            lambda: devices.renew("v", "pi", {one.id: 1}, epoch=theirs, lease_seconds=1),
            lambda: devices.add("v", "pi", HOW, WORKS, wanted_seconds=1),
            lambda: bring(devices, one, tenant="v"),
            lambda: bring(devices, one, tenant="u"),
            lambda: devices.results("u", batch[0].batch, wanted_seconds=1),
            lambda: devices.cancel("u", batch[0].batch),
        ):
            with pytest.raises(NotFoundError):
                call()
        assert devices.renew("u", "pi", {one.id: 1}, epoch=theirs, lease_seconds=1) == [one.id]
        assert ended(devices, batch) == []

    @pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../pi", "p\0", "\u00e9"])
    def test_names_are_plain(self, devices: DeviceStore, name: str) -> None:
        with pytest.raises(UserError):
            devices.register("t", name, PI)
        with pytest.raises(NotFoundError):
            devices.device("t", name)

    def test_the_machine_that_drives_is_not_registered_and_there_is_an_end(self, devices: DeviceStore) -> None:
        with pytest.raises(StateConflictError):
            devices.register("t", "local", PI)
        for number in range(100):
            devices.register("t", f"d{number}", PI)
        with pytest.raises(StateConflictError):
            devices.register("t", "one_more", PI)
        devices.register("t", "d7", PI)
        devices.register("u", "one_more", PI)

    def test_work_goes_to_the_agent_and_comes_back(self, devices: DeviceStore) -> None:
        batch = put(devices)
        assert [(one.work, one.conditions, one.search_id) for one in batch] == [(work, HOW, "srch_1") for work in WORKS]
        assert {(one.state, one.attempt) for one in batch} == {(MeasurementState.PENDING, 0)}
        assert devices.has_work("t", "pi")
        first = claimed(devices, most=3)
        assert [(one.id, one.state, one.attempt) for one in first] == [
            (one.id, MeasurementState.RUNNING, 1) for one in batch[:3]
        ]
        assert [one.work for one in claimed(devices)] == WORKS[3:]
        assert claimed(devices) == []
        assert not devices.has_work("t", "pi")
        done = bring(devices, first[1])
        assert (done.state, done.timing, done.error) == (MeasurementState.DONE, GOOD, None)
        failed = bring(devices, first[0], timing=None, error="The runtime cannot take it.\0" + "x" * 5000)
        assert failed.state is MeasurementState.FAILED
        assert failed.error is not None
        assert (len(failed.error), "\0" in failed.error) == (1000, False)
        assert ended(devices, batch) == [failed, done]
        pi = devices.device("t", "pi")
        assert (pi.measured, pi.failed) == (1, 1)
        assert pi.noise == pytest.approx(GOOD.error)

    def test_an_outcome_is_taken_once(self, devices: DeviceStore) -> None:
        put(devices)
        one = claimed(devices)[0]
        done = bring(devices, one)
        assert bring(devices, one) == done, "its answer may have been lost"
        with pytest.raises(LateOutcomeError):
            bring(devices, one, timing=replace(GOOD, ms=9.0))
        assert devices.device("t", "pi").measured == 1

    def test_a_lease_that_ran_out_is_handed_out_again_and_the_late_outcome_refused(self, devices: DeviceStore) -> None:
        batch = put(devices, WORKS[:1])
        late = claimed(devices, lease=0)[0]
        again = claimed(devices)[0]
        assert (again.id, again.attempt) == (late.id, 2)
        with pytest.raises(LateOutcomeError):
            bring(devices, late)
        assert devices.renew("t", "pi", {late.id: 1}, epoch=epoch(devices), lease_seconds=60) == [late.id]
        assert ended(devices, batch) == []
        assert bring(devices, again).timing == GOOD

    def test_an_outcome_after_the_lease_still_counts_when_nobody_else_has_it(self, devices: DeviceStore) -> None:
        put(devices)
        assert bring(devices, claimed(devices, lease=0)[0]).state is MeasurementState.DONE

    def test_leases_are_renewed(self, devices: DeviceStore) -> None:
        put(devices)
        held = {one.id: one.attempt for one in claimed(devices, lease=0)}
        assert devices.renew("t", "pi", held | {"msrm_unknown": 1}, epoch=epoch(devices), lease_seconds=60) == [
            "msrm_unknown"
        ]
        assert claimed(devices) == []

    def test_what_is_never_brought_back_fails(self, devices: DeviceStore) -> None:
        batch = put(devices, WORKS[:1])
        for attempt in (1, 2):
            assert claimed(devices, most=1, lease=0, most_attempts=2)[0].attempt == attempt
        assert claimed(devices, most=1, lease=0, most_attempts=2) == []
        (failed,) = ended(devices, batch)
        assert failed.state is MeasurementState.FAILED
        assert failed.error == "The agent was lost 2 times while it was to measure this."
        assert devices.device("t", "pi").failed == 1

    def test_an_agent_that_starts_again_gets_at_once_what_it_was_at(self, devices: DeviceStore) -> None:
        put(devices)
        before = claimed(devices, most=2)
        devices.register("t", "pi", PI)
        again = claimed(devices, most=2)
        assert [(one.id, one.attempt) for one in again] == [(one.id, 2) for one in before]
        with pytest.raises(LateOutcomeError):
            bring(devices, before[0])

    def test_an_agent_after_whom_another_registered_is_not_heard(self, devices: DeviceStore) -> None:
        batch = put(devices)
        first, one = epoch(devices), claimed(devices, most=1)[0]
        second = devices.register("t", "pi", PI)
        assert second.epoch not in ("", None, first)
        for call in (
            lambda: claimed(devices, epoch=first),
            lambda: devices.renew("t", "pi", {one.id: 1}, epoch=first, lease_seconds=60),
            lambda: bring(devices, one, by=first),
            lambda: bring(devices, batch[1], by=first),
        ):
            with pytest.raises(AnotherAgentError, match="Another agent speaks for 'pi' now"):
                call()
        assert devices.device("t", "pi").last_seen_at == second.last_seen_at, "that was another one"
        devices.remove("t", "pi")
        devices.register("t", "pi", PI)
        with pytest.raises(AnotherAgentError):
            claimed(devices, epoch=first)
        with pytest.raises(AnotherAgentError):
            claimed(devices, epoch=str(second.epoch))

    def test_another_machine_under_the_same_name_is_not_asked_for_the_rest(self, devices: DeviceStore) -> None:
        batch = put(devices)
        one = claimed(devices, most=1)[0]
        devices.register("t", "pi", replace(PI, runtimes={"torch": "2.7"}))
        assert {(m.state, m.error) for m in ended(devices, batch)} == {
            (
                MeasurementState.FAILED,
                "The device was registered anew as another machine, or with other versions of its runtimes.",
            )
        }
        with pytest.raises(LateOutcomeError):
            bring(devices, one)
        assert claimed(devices) == []

    def test_a_removed_device_is_forgotten_and_nothing_more_is_asked_of_it(self, devices: DeviceStore) -> None:
        batch = put(devices)
        devices.register("u", "pi", PI)
        running = claimed(devices, most=2)
        bring(devices, running[0])
        for tenant, name in (("t", "nano"), ("v", "pi"), ("t", "p\0")):
            with pytest.raises(NotFoundError):
                devices.remove(tenant, name)
        devices.remove("t", "pi")
        assert devices.devices("t") == []
        assert [one.name for one in devices.devices("u")] == ["pi"]
        with pytest.raises(NotFoundError):
            devices.remove("t", "pi")
        with pytest.raises(NotFoundError):
            bring(devices, running[1])
        with pytest.raises(NotFoundError):
            ended(devices, batch)
        with pytest.raises(NotFoundError):
            devices.cancel("t", batch[0].batch)
        devices.register("t", "pi", PI)
        assert devices.device("t", "pi").measured == 0
        assert claimed(devices) == []

    def test_nothing_is_asked_of_a_device_that_has_become_another(self, devices: DeviceStore) -> None:
        devices.register("t", "pi", PI)
        about: dict[str, Any] = {"wanted_seconds": 60, "expected": PI}
        assert len(devices.add("t", "pi", HOW, WORKS, **about)) == len(WORKS)
        devices.register("t", "pi", replace(PI, runtimes={"torch": "2.7", "onnxruntime": "1.20"}))
        with pytest.raises(DeviceChangedError, match=r"'pi' .* had torch 2\.6 when .*, and has torch 2\.7 now\."):
            devices.add("t", "pi", HOW, WORKS, **about)
        devices.register("t", "pi", replace(PI, fingerprint={"processor": "Cortex-A76", "cores": 4}))
        with pytest.raises(DeviceChangedError, match=r"has torch 2\.6 now, and another processor\."):
            devices.add("t", "pi", HOW, WORKS, **about)
        assert claimed(devices) == []
        devices.register("t", "pi", replace(PI, runtimes={"torch": "2.6"}))
        assert len(devices.add("t", "pi", HOW, WORKS, **about)) == len(WORKS), "what is not used may change"

    def test_only_timings_of_what_was_ordered_are_taken(self, devices: DeviceStore) -> None:
        batch = put(devices)
        devices.register("t", "nano", PI)
        one = claimed(devices)[0]
        for bad in (
            {"ms": float("nan")},
            {"ms": -1.0},
            {"ratio": 0.0},
            {"samples": 0},
            {"ratio": 1e-300, "ratio_iqr": 1e300},
        ):
            with pytest.raises(MeasurementError):
                bring(devices, one, timing=replace(GOOD, **bad))
        with pytest.raises(MeasurementError):
            bring(devices, one, conditions=replace(HOW, threads=1))
        with pytest.raises(MeasurementError):
            bring(devices, one, timing=None)
        with pytest.raises(MeasurementError):
            bring(devices, one, error="and a timing")
        with pytest.raises(NotFoundError):
            bring(devices, one, device="nano")
        with pytest.raises(NotFoundError):
            devices.record("t", "pi", "msrm_unknown", 1, epoch=epoch(devices), conditions=HOW, timing=GOOD)
        with pytest.raises(LateOutcomeError):
            bring(devices, batch[0], attempt=0)
        assert ended(devices, batch) == []
        assert devices.device("t", "pi").measured == 0

    def test_nobody_is_asked_for_what_nobody_waits_for(self, devices: DeviceStore) -> None:
        batch = put(devices, seconds=0)
        assert claimed(devices) == []
        assert not devices.has_work("t", "pi")
        assert ended(devices, batch) == []
        assert len(claimed(devices)) == len(WORKS)

    def test_a_batch_is_cancelled(self, devices: DeviceStore) -> None:
        batch, other = put(devices), put(devices, WORKS[:1])
        running = claimed(devices, most=2)
        done = bring(devices, running[0])
        devices.cancel("t", batch[0].batch)
        states = [one.state for one in ended(devices, batch)]
        assert states == [MeasurementState.DONE] + [MeasurementState.CANCELLED] * 3
        assert ended(devices, batch)[0] == done
        with pytest.raises(LateOutcomeError):
            bring(devices, running[1])
        assert devices.renew("t", "pi", {running[1].id: 1}, epoch=epoch(devices), lease_seconds=60) == [running[1].id]
        assert [one.id for one in claimed(devices)] == [other[0].id]

    def test_blocks_and_networks_travel_as_they_are(self, devices: DeviceStore) -> None:
        linear = Block("linear", rows=197, inputs=7, outputs=9)
        put(devices, [linear, WORKS[-1]])
        assert [one.work for one in claimed(devices)] == [linear, WORKS[-1]]
