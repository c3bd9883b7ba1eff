"""Devices and their measurements in a database; several servers, agents and drivers may share it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.registered import Measurement, MeasurementState, RegisteredDevice
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work, work_from_json, work_to_json
from automl_prune.loop.audit import HERE, Action, Origin
from automl_prune.storage import device_rules, rules
from automl_prune.storage.database import Database
from automl_prune.storage.ids import new_id
from automl_prune.storage.tables import BatchRow, DeviceRow, MeasurementRow
from automl_prune.storage.trail import Trail

_OPEN = (MeasurementState.PENDING.value, MeasurementState.RUNNING.value)


class SqlDevices:
    """The devices in a database.

    Args:
        database: With the newest schema.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._trail = database, Trail(database)

    def register(self, tenant: str, name: str, description: DeviceDescription, *, origin: Origin = HERE) -> RegisteredDevice:
        """Make a device known, or say that its agent has started again."""
        device_rules.check_name(name)
        told = rules.plain(description.to_json(), "A device's description")
        now = self._database.now()
        with self._database.write(through=True) as session:
            self._database.one_by_one(session, "devices", tenant)
            row = session.get(DeviceRow, (tenant, name), with_for_update=True)
            if row is None:
                count = select(func.count()).select_from(DeviceRow).where(DeviceRow.tenant == tenant)
                device_rules.check_number(session.scalar(count) or 0)
                row = DeviceRow(tenant=tenant, name=name, registered_at=now, measured=0, failed=0, noises=[])
                session.add(row)
                became = "registered"
            else:
                changed = row.description != told
                self._put_back(session, row, changed=changed)
                became = "described anew" if changed else "started again"
            row.description, row.last_seen_at, row.epoch = told, now, new_id("epch_")
            self._trail.note(session, Action.REGISTER_DEVICE, tenant, name, became, origin)
            return self._written(session, row)

    def _put_back(self, session: Session, row: DeviceRow, *, changed: bool) -> None:
        batches = select(BatchRow.id).where(BatchRow.tenant == row.tenant, BatchRow.device == row.name)
        theirs = update(MeasurementRow).where(MeasurementRow.batch_id.in_(batches), MeasurementRow.state.in_(_OPEN))
        values: dict[str, Any] = {"state": MeasurementState.PENDING.value, "lease_expires_at": None}
        if changed:
            values |= {"state": MeasurementState.FAILED.value, "error": device_rules.REDESCRIBED}
        session.execute(theirs.values(**values).execution_options(synchronize_session=False))

    def device(self, tenant: str, name: str) -> RegisteredDevice:
        """One device."""
        with self._database.read() as session:
            return self._shown(session, _device(session, tenant, name))

    def devices(self, tenant: str) -> list[RegisteredDevice]:
        """The tenant's devices by name."""
        query = select(DeviceRow).where(DeviceRow.tenant == tenant)
        with self._database.read() as session:
            rows = sorted(session.scalars(query), key=lambda row: row.name)  # databases order letters in their own ways
            return [self._shown(session, row) for row in rows]

    def remove(self, tenant: str, name: str, *, origin: Origin = HERE) -> None:
        """Forget a device."""
        with self._database.write() as session:
            row = _device(session, tenant, name, lock=True)
            _delete_batches(session, BatchRow.tenant == tenant, BatchRow.device == row.name)
            session.delete(row)
            self._trail.note(session, Action.REMOVE_DEVICE, tenant, name, "removed", origin)

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
        """Ask for measurements, as one batch; what nobody wanted for long is forgotten."""
        batch = BatchRow(id=new_id("btch_"), tenant=tenant, device=rules.text(device), search_id=search_id)
        batch.conditions, batch.wanted_until = conditions.to_json(), self._database.now(wanted_seconds)
        fresh = {"batch_id": batch.id, "state": MeasurementState.PENDING.value, "attempt": 0}
        made = [fresh | {"id": new_id("msrm_"), "work": rules.plain(work_to_json(w), "The work")} for w in works]
        with self._database.write() as session:
            present = DeviceDescription.from_json(_device(session, tenant, device, lock=True).description)
            device_rules.check_description(device, conditions, expected, present)
            self._forget(session, batch)
            session.add(batch)
            session.flush()
            if made:
                session.execute(insert(MeasurementRow).values(created_at=self._database.now()), made)
            return _measurements(session, _of_batch(batch.id))

    def _forget(self, session: Session, fresh: BatchRow) -> None:
        """Of the device of a new batch forget what is as old as can be."""
        long_ago = BatchRow.wanted_until < self._database.now(-86400 * device_rules.KEPT_DAYS)
        _delete_batches(session, BatchRow.tenant == fresh.tenant, BatchRow.device == fresh.device, long_ago)

    def has_work(self, tenant: str, device: str) -> bool:
        """Whether there is something to claim."""
        with self._database.read() as session:
            _device(session, tenant, device)
            query = select(MeasurementRow.id).join(BatchRow).where(self._claimable(tenant, device)).limit(1)
            return session.scalar(query) is not None

    def _claimable(self, tenant: str, device: str) -> ColumnElement[bool]:
        now, state = self._database.now(), MeasurementRow.state
        mine = and_(BatchRow.tenant == tenant, BatchRow.device == device, BatchRow.wanted_until > now)
        lapsed = and_(state == MeasurementState.RUNNING.value, MeasurementRow.lease_expires_at <= now)
        return and_(mine, or_(state == MeasurementState.PENDING.value, lapsed))

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
        query = _all().where(self._claimable(tenant, device)).order_by(MeasurementRow.id).limit(most)
        taken = []
        with self._database.write() as session:
            known = self._heard(session, tenant, device, epoch)
            for row, batch in session.execute(query.with_for_update(of=MeasurementRow, skip_locked=True)).all():
                if row.attempt >= most_attempts:
                    row.state, row.error = MeasurementState.FAILED.value, device_rules.lost(row.attempt)
                    row.lease_expires_at = None
                    known.failed += 1
                    continue
                row.attempt += 1
                row.state, row.lease_expires_at = MeasurementState.RUNNING.value, self._database.now(lease_seconds)
                taken.append((row, batch))
            session.flush()
            return [_measurement(row, batch) for row, batch in taken]

    def renew(self, tenant: str, device: str, held: Mapping[str, int], *, epoch: str, lease_seconds: float) -> list[str]:
        """Extend leases; returns ids not held any more."""
        ids = [rules.text(measurement_id) for measurement_id in held]
        mine = (BatchRow.tenant == tenant, BatchRow.device == device, MeasurementRow.id.in_(ids))
        query = _all().where(*mine, MeasurementRow.state == MeasurementState.RUNNING.value)
        gone = set(held)
        with self._database.write() as session:
            self._heard(session, tenant, device, epoch)
            for row, _ in session.execute(query.with_for_update(of=MeasurementRow)).all():
                if held[row.id] == row.attempt:
                    row.lease_expires_at = self._database.now(lease_seconds)
                    gone.discard(row.id)
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
        which = (BatchRow.tenant == tenant, BatchRow.device == device, MeasurementRow.id == rules.text(measurement_id))
        reason = None if error is None else device_rules.short(rules.text(error))
        with self._database.write() as session:
            known = self._heard(session, tenant, device, epoch)
            found = session.execute(_all().where(*which).with_for_update(of=MeasurementRow)).one_or_none()
            if found is None:
                raise device_rules.no_measurement(measurement_id)
            row, batch = found
            one = _measurement(row, batch)
            if one.state.ended and (one.attempt, one.timing, one.error) == (attempt, timing, reason):
                return one
            device_rules.check_held(one.id, one.state, one.attempt, attempt)
            device_rules.check_outcome(one.conditions, conditions, timing, error)
            row.state, row.lease_expires_at, row.error = MeasurementState.FAILED.value, None, reason
            if timing is not None:
                row.state, row.timing = MeasurementState.DONE.value, timing.to_json()
                known.measured += 1
                known.noises = [*known.noises, timing.error][-device_rules.NOISES :]
            else:
                known.failed += 1
            return _measurement(row, batch)

    def results(self, tenant: str, batch: str, *, wanted_seconds: float) -> list[Measurement]:
        """Those of a batch that ended; the rest is wanted for that much longer."""
        with self._database.write() as session:
            row = _batch(session, tenant, batch)
            row.wanted_until = self._database.now(wanted_seconds)
            return _measurements(session, _of_batch(row.id).where(MeasurementRow.state.not_in(_OPEN)))

    def cancel(self, tenant: str, batch: str) -> None:
        """Ask for nothing more of a batch."""
        with self._database.write() as session:
            row = _batch(session, tenant, batch)
            _device(session, tenant, row.device, lock=True)  # as everybody does who changes several, so that all take turns
            rest = update(MeasurementRow).where(MeasurementRow.batch_id == row.id, MeasurementRow.state.in_(_OPEN))
            change = {"state": MeasurementState.CANCELLED.value, "error": device_rules.CANCELLED, "lease_expires_at": None}
            session.execute(rest.values(**change).execution_options(synchronize_session=False))

    def _heard(self, session: Session, tenant: str, device: str, epoch: str) -> DeviceRow:
        row = _device(session, tenant, device, lock=True)
        device_rules.check_epoch(row.name, row.epoch, epoch)
        row.last_seen_at = self._database.now()
        return row

    def _written(self, session: Session, row: DeviceRow) -> RegisteredDevice:
        session.flush()
        session.refresh(row)
        return self._shown(session, row)

    def _shown(self, session: Session, row: DeviceRow) -> RegisteredDevice:
        moment = session.scalar(select(func.clock_timestamp())) if self._database.on_postgresql else datetime.now(UTC)
        silent = (moment - row.last_seen_at).total_seconds() if moment else 0.0
        return RegisteredDevice(
            tenant=row.tenant,
            name=row.name,
            description=DeviceDescription.from_json(row.description),
            registered_at=row.registered_at,
            last_seen_at=row.last_seen_at,
            silent_seconds=max(0.0, silent),
            measured=row.measured,
            failed=row.failed,
            noise=device_rules.noise_of(row.noises),
            epoch=row.epoch,
        )


def _delete_batches(session: Session, *which: ColumnElement[bool]) -> None:
    """Forget batches with their measurements."""
    silently = {"synchronize_session": False}
    ids = select(BatchRow.id).where(*which)
    session.execute(delete(MeasurementRow).where(MeasurementRow.batch_id.in_(ids)), execution_options=silently)
    session.execute(delete(BatchRow).where(*which), execution_options=silently)


def _all() -> Any:
    # Any: what rows of two entities are typed as differs between releases of SQLAlchemy
    return select(MeasurementRow, BatchRow).join(BatchRow, BatchRow.id == MeasurementRow.batch_id)


def _of_batch(batch: str) -> Any:
    return _all().where(BatchRow.id == batch).order_by(MeasurementRow.id)


def _device(session: Session, tenant: str, name: str, *, lock: bool = False) -> DeviceRow:
    row = session.get(DeviceRow, (tenant, rules.text(name)), with_for_update=lock)
    if row is None:
        raise device_rules.no_device(name)
    return row


def _batch(session: Session, tenant: str, batch: str) -> BatchRow:
    row = session.get(BatchRow, rules.text(batch))
    if row is None or row.tenant != tenant:
        raise device_rules.no_batch(batch)
    return row


def _measurements(session: Session, query: Any) -> list[Measurement]:
    return [_measurement(row, batch) for row, batch in session.execute(query).all()]


def _measurement(row: MeasurementRow, batch: BatchRow) -> Measurement:
    return Measurement(
        id=row.id,
        batch=batch.id,
        device=batch.device,
        search_id=batch.search_id,
        conditions=Conditions.from_json(batch.conditions),
        work=work_from_json(row.work),
        state=MeasurementState(row.state),
        attempt=row.attempt,
        timing=Timing.from_json(row.timing) if row.timing else None,
        error=row.error,
        created_at=row.created_at,
    )
