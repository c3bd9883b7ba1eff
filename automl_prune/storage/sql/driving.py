"""What launchers and drivers do to searches: claim, renew, move on, give back; and what drivers leave behind."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from automl_prune.loop.job import Artifact, SearchJob, SearchState, Worker
from automl_prune.loop.ports import Limits
from automl_prune.storage import rows, rules
from automl_prune.storage.sql.steps import Steps, put_back_running_trials, written
from automl_prune.storage.tables import ArtifactRow, AttemptRow, SearchRow, SnapshotRow

_CLAIMS = 0x636C61696D73  # one advisory lock of PostgreSQL: "claims"
_OWNED = [state.value for state in rules.OWNED]


class Driving(Steps):
    """The part of the store that serves launchers and drivers."""

    def claim(
        self,
        *,
        lease_seconds: float,
        worker: Worker | None = None,
        limits: Limits | None = None,
        most_losses: int | None = None,
    ) -> SearchJob | None:
        """Take the search of the highest priority, the oldest first, that is queued or whose lease ran out."""
        full: set[str] = set()
        with self.database.write() as session:
            self._count_alone(session, limits)
            while (row := self._claimable(session, full)) is not None:
                if row.key_id is not None and self._is_full(session, row, limits):
                    full.add(row.key_id)
                elif not self._settled(session, row, most_losses):
                    return self._take(session, row, lease_seconds, worker)
        return None

    def _count_alone(self, session: Session, limits: Limits | None) -> None:
        """With limits, claims take turns: two at once would both see the last free place."""
        if limits is not None and self.database.on_postgresql:
            session.execute(select(func.pg_advisory_xact_lock(_CLAIMS)))

    def _claimable(self, session: Session, full: set[str]) -> SearchRow | None:
        ready = or_(SearchRow.state == SearchState.QUEUED.value, SearchRow.lease_expires_at <= self.database.now())
        query = select(SearchRow).where(SearchRow.finished_at.is_(None), ready)
        if full:
            query = query.where(or_(SearchRow.key_id.is_(None), SearchRow.key_id.not_in(sorted(full))))
        query = query.order_by(SearchRow.priority.desc(), SearchRow.id).limit(1)
        # SQLite has no row locks and leaves this out; there BEGIN IMMEDIATE admits one claim at a time
        return session.scalar(query.with_for_update(skip_locked=True))

    def _is_full(self, session: Session, row: SearchRow, limits: Limits | None) -> bool:
        limit = rules.limit_of(limits, row.key_id)
        if limit is None:
            return False
        of_key = (SearchRow.tenant == row.tenant, SearchRow.key_id == row.key_id)  # there is an index by tenant
        running = (*of_key, SearchRow.state.in_(_OWNED), SearchRow.id != row.id)
        return (session.scalar(select(func.count()).select_from(SearchRow).where(*running)) or 0) >= limit

    def _settled(self, session: Session, row: SearchRow, most_losses: int | None) -> bool:
        """Whether a search that looks for a driver needs none: it was to be stopped, or too many were lost."""
        if row.lease_expires_at is None:
            return False
        self._close_attempt(session, row, rules.LAPSED, lost=True)
        row.losses += 1
        if row.cancel_requested:
            self._end(session, row, SearchState.CANCELLED, rules.CANCELLED)
        elif rules.too_many(row.losses, most_losses):
            self._end(session, row, SearchState.FAILED, rules.lost(row.losses, most_losses, rules.LAPSED))
        elif row.pause_requested:
            self._pause(session, row)
        else:
            return False
        session.flush()
        return True

    def settle_lapsed(self, *, most_losses: int | None = None) -> int:
        """Put searches right whose lease ran out, whether or not there is room for them; returns how many."""
        lapsed = (SearchRow.finished_at.is_(None), SearchRow.lease_expires_at <= self.database.now())
        with self.database.read() as session:  # mostly there are none, and nobody needs to wait for that
            found = session.scalars(select(SearchRow.id).where(*lapsed).order_by(SearchRow.id)).all()
        return sum(self._settle(search_id, most_losses) for search_id in found)

    def _settle(self, search_id: str, most_losses: int | None) -> bool:
        still = (SearchRow.id == search_id, SearchRow.lease_expires_at <= self.database.now())
        with self.database.write() as session:
            row = session.scalar(select(SearchRow).where(*still).with_for_update(skip_locked=True))
            if row is None:
                return False
            if not self._settled(session, row, most_losses):
                self._queue(session, row, f"queued again: {rules.lost(row.losses, most_losses, rules.LAPSED)}")
            return True

    def _take(self, session: Session, row: SearchRow, lease_seconds: float, worker: Worker | None) -> SearchJob:
        now = self.database.now()
        row.started_at = row.started_at or now
        row.state_reason = rules.STARTING if row.lease_expires_at is None else rules.taken_over(row.attempt)
        row.state = SearchState.PREPARING.value
        row.attempt += 1
        row.lease_expires_at = self.database.now(lease_seconds)
        row.owner, row.host = (worker.name, worker.host) if worker else (None, None)
        self._changed(row)
        put_back_running_trials(session, row.id)
        session.add(AttemptRow(search_id=row.id, attempt=row.attempt, started_at=now, lost=False, **rows.worker(worker)))
        self._tell_state(session, row)
        return written(session, row)

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float, worker: Worker | None = None) -> SearchJob:
        """Extend the lease and read the search, without its snapshot and result; ``worker`` is who drives it from now on."""
        with self.database.write() as session:
            row = self._owned(session, search_id, attempt, lease_expires_at=self.database.now(lease_seconds))
            if worker is not None:
                row.owner, row.host = worker.name, worker.host
                claim = session.get_one(AttemptRow, (search_id, attempt))
                claim.worker, claim.host, claim.pid = worker.name, worker.host, worker.pid
            return rows.job(row)

    def set_state(
        self,
        search_id: str,
        attempt: int,
        state: SearchState,
        *,
        reason: str | None = None,
        info: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a claimed search on; top-level keys of ``info`` are merged into what is there."""
        rules.check_target(state)
        news, found = rules.plain(info or {}, "The info"), rules.plain(result, "The result")
        why = None if reason is None else rules.text(reason)
        with self.database.write() as session:
            row = self._owned(session, search_id, attempt)
            row.info = {**row.info, **news}
            if found is not None:
                row.result = found
            if state.is_terminal:
                self._end(session, row, state, why)
                return
            moved = (row.state, row.state_reason) != (state.value, why)
            row.state, row.state_reason = state.value, why
            self._changed(row)
            if moved:
                self._tell_state(session, row)

    def release(
        self,
        search_id: str,
        attempt: int,
        *,
        reason: str,
        lost: bool = False,
        most_losses: int | None = None,
        hold: bool = False,
    ) -> SearchJob:
        """Give a claimed search back: cancelled or paused when that was requested, failed, or else queued."""
        why = rules.text(reason)
        with self.database.write() as session:
            row = self._owned(session, search_id, attempt)
            self._close_attempt(session, row, why, lost=lost)
            row.losses += lost
            told = rules.lost(row.losses, most_losses, why) if lost else why
            if row.cancel_requested:
                self._end(session, row, SearchState.CANCELLED, told)
            elif lost and rules.too_many(row.losses, most_losses):
                self._end(session, row, SearchState.FAILED, told)
            elif hold or row.pause_requested:
                self._pause(session, row, why if hold else rules.PAUSED)
            else:
                self._queue(session, row, f"queued again: {told}" if lost else told)
            return written(session, row)

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        body = rules.plain(snapshot, "The snapshot")
        with self.database.write() as session:
            self._own(session, search_id, attempt)
            session.execute(delete(SnapshotRow).where(SnapshotRow.search_id == search_id))
            session.add(SnapshotRow(search_id=search_id, body=body))

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        with self.database.write() as session:
            self._own(session, search_id, attempt)
            session.merge(ArtifactRow(search_id=search_id, name=artifact.name, size=artifact.size, sha256=artifact.sha256))
