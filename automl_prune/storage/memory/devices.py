"""Devices and their measurements in memory: for tests, and for agents of one process. Forgets everything with it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.registered import Measurement, MeasurementState, RegisteredDevice
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work
from automl_prune.storage import device_rules, rules
from automl_prune.storage.ids import new_id
from automl_prune.storage.memory.entries import now


@dataclass
class _Device:
    tenant: str
    name: str
    description: DeviceDescription
    registered_at: datetime
    last_seen_at: datetime
    measured: int = 0
    failed: int = 0
    noises: list[float] = field(default_factory=list)
    epoch: str = ""

    def shown(self) -> RegisteredDevice:
        kept = {name: value for name, value in vars(self).items() if name != "noises"}
        silent = max(0.0, (now() - self.last_seen_at).total_seconds())
        return RegisteredDevice(**kept, silent_seconds=silent, noise=device_rules.noise_of(self.noises))

    def note(self, timing: Timing | None) -> None:
        """Count an outcome."""
        if timing is None:
            self.failed += 1
        else:
            self.measured += 1
            self.noises = [*self.noises, timing.error][-device_rules.NOISES :]


@dataclass
class _Entry:
    measurement: Measurement
    leased_until: datetime | None = None

    @property
    def free(self) -> bool:
        """Whether nobody is at it."""
        state = self.measurement.state
        running_out = self.leased_until is not None and self.leased_until <= now()
        return state is MeasurementState.PENDING or (state is MeasurementState.RUNNING and running_out)

    def change(self, **values: Any) -> Measurement:
        self.measurement = replace(self.measurement, **values)
        if self.measurement.state is not MeasurementState.RUNNING:
            self.leased_until = None
        return self.measurement


@dataclass
class _Batch:
    tenant: str
    device: str
    wanted_until: datetime
    entries: list[_Entry] = field(default_factory=list)


class MemoryDevices:
    """Keeps devices in memory; safe to share between threads, and otherwise the same as a database."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, str], _Device] = {}
        self._batches: dict[str, _Batch] = {}
        self._lock = threading.RLock()

    def register(self, tenant: str, name: str, description: DeviceDescription) -> RegisteredDevice:
        """Make a device known, or say that its agent has started again."""
        device_rules.check_name(name)
        with self._lock:
            known = self._devices.get((tenant, name))
            if known is None:
                device_rules.check_number(len(self.devices(tenant)))
                known = self._devices[tenant, name] = _Device(tenant, name, description, now(), now())
            self._put_back(tenant, name, changed=known.description != description)
            known.description, known.last_seen_at, known.epoch = description, now(), new_id("epch_")
            return known.shown()

    def _put_back(self, tenant: str, name: str, *, changed: bool) -> None:
        for entry in self._open(tenant, name):
            if changed:
                entry.change(state=MeasurementState.FAILED, error=device_rules.REDESCRIBED)
            else:
                entry.change(state=MeasurementState.PENDING)

    def _open(self, tenant: str, name: str) -> list[_Entry]:
        mine = (b for b in self._batches.values() if (b.tenant, b.device) == (tenant, name))
        return [entry for batch in mine for entry in batch.entries if not entry.measurement.state.ended]

    def device(self, tenant: str, name: str) -> RegisteredDevice:
        """One device."""
        with self._lock:
            return self._device(tenant, name).shown()

    def _device(self, tenant: str, name: str) -> _Device:
        if (tenant, name) not in self._devices:
            raise device_rules.no_device(name)
        return self._devices[tenant, name]

    def devices(self, tenant: str) -> list[RegisteredDevice]:
        """The tenant's devices by name."""
        with self._lock:
            return [found.shown() for (whose, _), found in sorted(self._devices.items()) if whose == tenant]

    def remove(self, tenant: str, name: str) -> None:
        """Forget a device."""
        with self._lock:
            self._device(tenant, name)
            kept = {id_: b for id_, b in self._batches.items() if (b.tenant, b.device) != (tenant, name)}
            self._batches = kept
            del self._devices[tenant, name]

    def add(
        self,
        tenant: str,
        device: str,
        conditions: Conditions,
        works: Sequence[Work],
        *,
        wanted_seconds: float,
        search_id: str | None = None,
        expected: DeviceDescription | None = None,
    ) -> list[Measurement]:
        """Ask for measurements, as one batch."""
        with self._lock:
            present = self._device(tenant, device).description
            device_rules.check_description(device, conditions, expected, present)
            oldest = now() - timedelta(days=device_rules.KEPT_DAYS)
            self._batches = {name: batch for name, batch in self._batches.items() if batch.wanted_until >= oldest}
            name, batch = new_id("btch_"), _Batch(tenant, device, now() + timedelta(seconds=wanted_seconds))
            for work in works:
                about = (new_id("msrm_"), name, device, search_id, conditions, work)
                batch.entries.append(_Entry(Measurement(*about, MeasurementState.PENDING, 0, None, None, now())))
            self._batches[name] = batch
            return [entry.measurement for entry in batch.entries]

    def has_work(self, tenant: str, device: str) -> bool:
        """Whether there is something to claim."""
        with self._lock:
            self._device(tenant, device)
            return bool(self._claimable(tenant, device))

    def _claimable(self, tenant: str, device: str) -> list[_Entry]:
        mine = (b for b in self._batches.values() if (b.tenant, b.device) == (tenant, device) and b.wanted_until > now())
        return [entry for batch in mine for entry in batch.entries if entry.free]

    def claim(
        self,
        tenant: str,
        device: str,
        *,
        epoch: str,
        most: int,
        lease_seconds: float,
        most_attempts: int = device_rules.MOST_ATTEMPTS,
    ) -> list[Measurement]:
        """Take measurements that nobody is at; the device is heard of."""
        with self._lock:
            known = self._heard(tenant, device, epoch)
            taken = []
            for entry in self._claimable(tenant, device)[:most]:
                attempt = entry.measurement.attempt
                if attempt >= most_attempts:
                    entry.change(state=MeasurementState.FAILED, error=device_rules.lost(attempt))
                    known.note(None)
                else:
                    taken.append(entry.change(state=MeasurementState.RUNNING, attempt=attempt + 1))
                    entry.leased_until = now() + timedelta(seconds=lease_seconds)
            return taken

    def _heard(self, tenant: str, device: str, epoch: str) -> _Device:
        known = self._device(tenant, device)
        device_rules.check_epoch(device, known.epoch, epoch)
        known.last_seen_at = now()
        return known

    def renew(self, tenant: str, device: str, held: Mapping[str, int], *, epoch: str, lease_seconds: float) -> list[str]:
        """Extend leases; returns ids not held any more."""
        with self._lock:
            self._heard(tenant, device, epoch)
            gone = set(held)
            for entry in self._open(tenant, device):
                one = entry.measurement
                if one.state is MeasurementState.RUNNING and held.get(one.id) == one.attempt:
                    entry.leased_until = now() + timedelta(seconds=lease_seconds)
                    gone.discard(one.id)
            return sorted(gone)

    def record(
        self,
        tenant: str,
        device: str,
        measurement_id: str,
        attempt: int,
        *,
        epoch: str,
        conditions: Conditions,
        timing: Timing | None = None,
        error: str | None = None,
    ) -> Measurement:
        """Store what came of a measurement."""
        with self._lock:
            known = self._device(tenant, device)
            device_rules.check_epoch(device, known.epoch, epoch)
            entry = self._entry(tenant, device, measurement_id)
            one, reason = entry.measurement, None if error is None else device_rules.short(rules.text(error))
            if one.state.ended and (one.attempt, one.timing, one.error) == (attempt, timing, reason):
                return one
            device_rules.check_held(one.id, one.state, one.attempt, attempt)
            device_rules.check_outcome(one.conditions, conditions, timing, error)
            known.last_seen_at = now()
            known.note(timing)
            state = MeasurementState.DONE if timing else MeasurementState.FAILED
            return entry.change(state=state, timing=timing, error=reason)

    def _entry(self, tenant: str, device: str, measurement_id: str) -> _Entry:
        for batch in self._batches.values():
            for entry in batch.entries if (batch.tenant, batch.device) == (tenant, device) else ():
                if entry.measurement.id == measurement_id:
                    return entry
        raise device_rules.no_measurement(measurement_id)

    def results(self, tenant: str, batch: str, *, wanted_seconds: float) -> list[Measurement]:
        """Those of a batch that ended; the rest is wanted for that much longer."""
        with self._lock:
            found = self._batch(tenant, batch)
            found.wanted_until = now() + timedelta(seconds=wanted_seconds)
            return [entry.measurement for entry in found.entries if entry.measurement.state.ended]

    def cancel(self, tenant: str, batch: str) -> None:
        """Ask for nothing more of a batch."""
        with self._lock:
            for entry in self._batch(tenant, batch).entries:
                if not entry.measurement.state.ended:
                    entry.change(state=MeasurementState.CANCELLED, error=device_rules.CANCELLED)

    def _batch(self, tenant: str, batch: str) -> _Batch:
        found = self._batches.get(batch)
        if found is None or found.tenant != tenant:
            raise device_rules.no_batch(batch)
        return found
