"""What clients do to searches: order, change, cancel, pause, resume."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from automl_prune.loop.audit import HERE, Action, Origin
from automl_prune.loop.job import DEFAULT_TENANT, SearchJob, SearchState, Submission
from automl_prune.loop.ports import UNLIMITED, Idempotency, QueueLimits
from automl_prune.storage import rules
from automl_prune.storage.ids import new_search_id
from automl_prune.storage.sql.steps import Steps, find, whole, written
from automl_prune.storage.tables import IdempotencyRow, LabelRow, SearchRow


class Orders(Steps):
    """The part of the store that serves those who order."""

    def add_search(
        self,
        spec: Mapping[str, Any],
        *,
        name: str | None,
        labels: Mapping[str, str],
        tenant: str = DEFAULT_TENANT,
        priority: int = 0,
        queue: QueueLimits = UNLIMITED,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Queue a search; when this returns, it survives the loss of the process and of power."""
        row = self._row(spec, name, labels, tenant, priority, origin.key_id)
        with self.database.write(through=True) as session:
            return self._add(session, row, queue, origin)

    def add_search_once(
        self,
        spec: Mapping[str, Any],
        *,
        name: str | None,
        labels: Mapping[str, str],
        idempotency: Idempotency,
        tenant: str = DEFAULT_TENANT,
        priority: int = 0,
        queue: QueueLimits = UNLIMITED,
        origin: Origin = HERE,
    ) -> Submission:
        """Queue a search unless the tenant's key came before; IdempotencyError when it came with another fingerprint."""
        row = self._row(spec, name, labels, tenant, priority, origin.key_id)
        with self.database.write(through=True) as session:
            if self._is_new(session, idempotency, row):
                return Submission(self._add(session, row, queue, origin), replayed=False)
            first = session.get_one(IdempotencyRow, (tenant, idempotency.key))
            rules.check_key(idempotency, first.fingerprint)
            return Submission(written(session, find(session, first.search_id)), replayed=True)

    def ordered_before(self, idempotency: Idempotency, *, tenant: str = DEFAULT_TENANT) -> SearchJob | None:
        """The search that the tenant's key made, or None; IdempotencyError when it came with another fingerprint."""
        with self.database.read() as session:
            first = session.scalar(
                select(IdempotencyRow).where(
                    IdempotencyRow.tenant == tenant,
                    IdempotencyRow.key == idempotency.key,
                    IdempotencyRow.created_at >= self._oldest_key(),
                )
            )
            if first is None:
                return None
            rules.check_key(idempotency, first.fingerprint)
            return whole(session, find(session, first.search_id))

    def _row(
        self,
        spec: Mapping[str, Any],
        name: str | None,
        labels: Mapping[str, str],
        tenant: str,
        priority: int,
        key_id: str | None,
    ) -> SearchRow:
        now = self.database.now()
        return SearchRow(
            id=new_search_id(),
            name=None if name is None else rules.text(name),
            strategy=rules.strategy_of(spec),
            spec=rules.plain(spec, "The spec"),
            state=SearchState.QUEUED.value,
            attempt=0,
            cancel_requested=False,
            events=0,
            created_at=now,
            updated_at=now,
            info={},
            labels=_labels(labels),
            tenant=tenant,
            priority=priority,
            key_id=key_id,
        )

    def _add(self, session: Session, row: SearchRow, queue: QueueLimits, origin: Origin) -> SearchJob:
        self._check_room(session, row, queue)
        session.add(row)
        session.flush()
        self._tell_state(session, row)
        self._note(session, row, Action.ORDER, origin)
        return written(session, row)

    def _check_room(self, session: Session, row: SearchRow, queue: QueueLimits) -> None:
        """Raise QueueFullError; of a tenant's orders at the same moment, each counts those before it."""
        limits = [(queue.of_tenant, true()), (queue.of_key, SearchRow.key_id == row.key_id)]
        if any(most is not None for most, _ in limits):
            self.database.one_by_one(session, "orders", row.tenant)
        waiting = (SearchRow.tenant == row.tenant, SearchRow.state.in_([state.value for state in rules.AT_REST]))
        for most, whose in limits:
            if most is not None:
                found = session.scalar(select(func.count()).select_from(SearchRow).where(*waiting, whose))
                rules.check_room(found or 0, most)

    def _is_new(self, session: Session, idempotency: Idempotency, row: SearchRow) -> bool:
        """Take the key for the search; of two transactions at once the second waits for the first."""
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < self._oldest_key()))
        insert = postgresql.insert if self.database.on_postgresql else sqlite.insert
        take = insert(IdempotencyRow).values(
            tenant=row.tenant,
            key=idempotency.key,
            fingerprint=idempotency.fingerprint,
            search_id=row.id,
            created_at=self.database.now(),
        )
        taken = session.execute(take.on_conflict_do_nothing().returning(IdempotencyRow.key))
        return taken.one_or_none() is not None

    def _oldest_key(self) -> ColumnElement[datetime]:
        """Since when keys are remembered."""
        return self.database.now(-timedelta(hours=rules.KEY_HOURS).total_seconds())

    def update_search(
        self,
        search_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Change what is given; PreconditionError when the search has another version than expected."""
        with self.database.write() as session:
            row = find(session, search_id, tenant=tenant, lock=True)
            rules.check_version(search_id, row.version, expected_version)
            if name is not None:
                row.name = rules.text(name) or None
            if labels is not None:
                session.execute(delete(LabelRow).where(LabelRow.search_id == search_id))
                session.add_all(_labels(labels, search_id=search_id))
            if priority is not None:
                rules.check_priority(search_id, row.state)
                row.priority = priority
            self._changed(row)
            self._note(session, row, Action.CHANGE, origin)
            return written(session, row)

    def request_cancel(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Cancel a waiting or paused search at once, ask a running one to stop; StateConflictError when it already ended."""
        with self.database.write() as session:
            row = find(session, search_id, tenant=tenant, lock=True)
            rules.check_version(search_id, row.version, expected_version)
            rules.check_cancel(search_id, row.state)
            if not row.cancel_requested:
                row.cancel_requested = True
                if row.state in rules.AT_REST:
                    self._end(session, row, SearchState.CANCELLED, rules.CANCELLED)
                else:
                    self._changed(row)
                    self._tell_state(session, row)
                self._note(session, row, Action.CANCEL, origin)
            return written(session, row)

    def request_pause(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Pause a queued search at once, ask a driven one to be given back; asking twice is asking once."""
        with self.database.write() as session:
            row = find(session, search_id, tenant=tenant, lock=True)
            rules.check_version(search_id, row.version, expected_version)
            rules.check_pause(search_id, row.state, row.cancel_requested)
            if row.state == SearchState.QUEUED:
                self._pause(session, row)
            elif row.state == SearchState.PAUSED or row.pause_requested:
                return written(session, row)
            else:
                row.pause_requested = True
                self._changed(row)
                self._tell_state(session, row)
            self._note(session, row, Action.PAUSE, origin)
            return written(session, row)

    def request_resume(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Queue a paused search again, or take back a request to pause; StateConflictError when there is neither."""
        with self.database.write() as session:
            row = find(session, search_id, tenant=tenant, lock=True)
            rules.check_version(search_id, row.version, expected_version)
            rules.check_resume(search_id, row.state, row.pause_requested)
            if row.state == SearchState.PAUSED:
                self._queue(session, row, rules.RESUMED)
            else:
                row.pause_requested = False
                self._changed(row)
                self._tell_state(session, row)
            self._note(session, row, Action.RESUME, origin)
            return written(session, row)


def _labels(labels: Mapping[str, str], **of: str) -> list[LabelRow]:
    return [LabelRow(key=rules.text(k), value=rules.text(v), **of) for k, v in labels.items()]
