"""A store in a database: SQLite for one machine, PostgreSQL for several.

Every method is one transaction. A driver's write begins by updating its search's row ``WHERE attempt = …``: that refuses
drivers whose time is over, keeps the next claim out until the commit, and takes the next place in the event sequence.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from automl_prune.loop.job import Artifact, SearchJob, SearchState, StoredTrial
from automl_prune.storage import migrate, rows, rules
from automl_prune.storage.engine import connect
from automl_prune.storage.ids import new_search_id
from automl_prune.storage.tables import ArtifactRow, LabelRow, SearchRow, SnapshotRow, TrialRow, UtcDateTime
from automl_prune.trial import Outcome, Trial, TrialState

_OWNED = [state.value for state in rules.OWNED]
_LEFT_OVER = {"state": rules.LEFT_OVER.state.value, "outcome": rules.outcome_to_json(rules.LEFT_OVER)}


class SqlStore:
    """Searches in a database with the newest schema.

    Args:
        url: ``sqlite:///FILE`` (on a local disk) or ``postgresql://USER@HOST/NAME``.

    Raises:
        UserError: The database's schema is not the one this program needs; the message says what to do.
    """

    def __init__(self, url: str) -> None:
        self._engine = connect(url)
        try:
            migrate.require_head(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        self._read = sessionmaker(self._engine)
        self._write = sessionmaker(self._engine.execution_options(begin="IMMEDIATE"))
        self._write_through = sessionmaker(self._engine.execution_options(begin="IMMEDIATE", synchronous="FULL"))

    @classmethod
    def open(cls, url: str, *, upgrade: bool = False) -> "SqlStore":
        """The store at ``url``, its schema brought up to date first when ``upgrade``."""
        if upgrade:
            migrate.upgrade(url)
        return cls(url)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def add_search(self, spec: Mapping[str, Any], *, name: str | None, labels: Mapping[str, str]) -> SearchJob:
        """Queue a search; when this returns, it survives the loss of the process and of power."""
        row = SearchRow(
            id=new_search_id(),
            name=None if name is None else rules.text(name),
            strategy=rules.strategy_of(spec),
            spec=rules.plain(spec, "The spec"),
            state=SearchState.QUEUED.value,
            attempt=0,
            cancel_requested=False,
            events=0,
            created_at=self._now(),
            updated_at=self._now(),
            info={},
            labels=[LabelRow(key=rules.text(k), value=rules.text(v)) for k, v in labels.items()],
        )
        with self._write_through.begin() as session:
            session.add(row)
            return rows.job(_written(session, row))

    def get_search(self, search_id: str) -> SearchJob:
        """One search."""
        with self._read() as session:
            return rows.job(_search(session, search_id), _snapshot(session, search_id))

    def list_searches(
        self,
        *,
        states: Sequence[SearchState] = (),
        strategy: str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[SearchJob]:
        """Searches newest first, without their snapshots; ``before`` is the last id of the previous page."""
        query, place = select(SearchRow), SearchRow.id
        if label is not None:
            key, value = map(rules.text, label)
            query = query.join(LabelRow).where(LabelRow.key == key, LabelRow.value == value)
            place = LabelRow.search_id  # the same, but in the order of the labels' index
        if states:
            query = query.where(SearchRow.state.in_([state.value for state in states]))
        if strategy is not None:
            query = query.where(SearchRow.strategy == strategy)
        if before is not None:
            query = query.where(place < before)
        with self._read() as session:
            return [rows.job(row) for row in session.scalars(query.order_by(place.desc()).limit(limit))]

    def claim(self, *, lease_seconds: float) -> SearchJob | None:
        """Take the oldest search that is queued, or whose lease ran out, as its next attempt; None when there is none."""
        with self._write.begin() as session:
            while (row := self._claimable(session)) is not None:
                if not row.cancel_requested:
                    return self._take(session, row, lease_seconds)
                self._end(session, row, SearchState.CANCELLED)
        return None

    def _claimable(self, session: Session) -> SearchRow | None:
        ready = or_(SearchRow.state == SearchState.QUEUED.value, SearchRow.lease_expires_at <= self._now())
        query = select(SearchRow).where(SearchRow.finished_at.is_(None), ready).order_by(SearchRow.id).limit(1)
        # SQLite has no row locks and leaves this out; there BEGIN IMMEDIATE admits one claim at a time
        return session.scalar(query.with_for_update(skip_locked=True))

    def _take(self, session: Session, row: SearchRow, lease_seconds: float) -> SearchJob:
        if row.lease_expires_at is not None:
            row.state_reason = rules.taken_over(row.attempt)
        if row.started_at is None:
            row.started_at = self._now()
        row.state = SearchState.PREPARING.value
        row.attempt += 1
        row.lease_expires_at = self._now(lease_seconds)
        row.updated_at = self._now()
        _put_back_running_trials(session, row.id)
        return rows.job(_written(session, row), _snapshot(session, row.id))

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float) -> SearchJob:
        """Extend the lease and read the search, without its snapshot."""
        with self._write.begin() as session:
            self._own(session, search_id, attempt, lease_expires_at=self._now(lease_seconds))
            return rows.job(_search(session, search_id))

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
        with self._write.begin() as session:
            self._own(session, search_id, attempt)
            row = _search(session, search_id)
            row.state = state.value
            row.state_reason = None if reason is None else rules.text(reason)
            row.info = {**row.info, **news}
            if found is not None:
                row.result = found
            if state.is_terminal:
                self._end(session, row, state)

    def release(self, search_id: str, attempt: int, *, reason: str) -> None:
        """Give a claimed search back to the queue, or end it when it was to be cancelled."""
        with self._write.begin() as session:
            self._own(session, search_id, attempt, state_reason=rules.text(reason))
            row = _search(session, search_id)
            if row.cancel_requested:
                self._end(session, row, SearchState.CANCELLED)
            else:
                row.state = SearchState.QUEUED.value
                row.lease_expires_at = None
                _put_back_running_trials(session, search_id)

    def request_cancel(self, search_id: str) -> SearchJob:
        """Cancel a queued search at once, ask a running one to stop; StateConflictError when it already ended."""
        with self._write.begin() as session:
            row = _search(session, search_id, lock=True)
            if row.finished_at is not None:
                raise rules.already_ended(search_id, row.state)
            row.cancel_requested = True
            row.updated_at = self._now()
            if row.state == SearchState.QUEUED:
                self._end(session, row, SearchState.CANCELLED)
            return rows.job(_written(session, row), _snapshot(session, search_id))

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        try:
            with self._write.begin() as session:
                seq = self._own(session, search_id, attempt, events=SearchRow.events + 1)
                session.execute(insert(TrialRow).values(**rows.asked(search_id, trial, seq), asked_at=self._now()))
                return seq
        except IntegrityError:
            raise rules.already_asked(search_id, trial.number) from None

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        again = case((TrialRow.started_at.is_(None), 0), else_=1)
        with self._write.begin() as session:
            self._own(session, search_id, attempt)
            return _change_open_trial(
                session,
                search_id,
                number,
                state=TrialState.RUNNING.value,
                attempt=TrialRow.attempt + again,
                started_at=self._now(),
            )

    def record_outcome(self, search_id: str, attempt: int, number: int, outcome: Outcome) -> int:
        """Store a trial's only outcome; returns its place in the event sequence. StateConflictError when it has one."""
        body = rules.outcome_to_json(outcome)
        with self._write.begin() as session:
            seq = self._own(session, search_id, attempt, events=SearchRow.events + 1)
            _change_open_trial(
                session, search_id, number, state=body["state"], outcome=body, told_seq=seq, ended_at=self._now()
            )
            return seq

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        body = rules.plain(snapshot, "The snapshot")
        with self._write.begin() as session:
            self._own(session, search_id, attempt)
            session.execute(delete(SnapshotRow).where(SnapshotRow.search_id == search_id))
            session.add(SnapshotRow(search_id=search_id, body=body))

    def trials(
        self,
        search_id: str,
        *,
        arm: str | None = None,
        state: str | None = None,
        limit: int | None = None,
        after: int = -1,
    ) -> list[StoredTrial]:
        """Trials in order of number, ``after`` the given number."""
        query = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.number > after)
        if arm is not None:
            query = query.where(TrialRow.arm == arm)
        if state is not None:
            query = query.where(TrialRow.state == state)
        with self._read() as session:
            _known(session, search_id)
            return [rows.trial(row) for row in session.scalars(query.order_by(TrialRow.number).limit(limit))]

    def trial(self, search_id: str, number: int) -> StoredTrial:
        """One trial."""
        with self._read() as session:
            row = session.get(TrialRow, (search_id, number))
            if row is None:
                _known(session, search_id)
                raise rules.no_trial(search_id, number)
            return rows.trial(row)

    def progress(self, search_id: str) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        query = select(TrialRow.arm, TrialRow.state, func.count()).where(TrialRow.search_id == search_id)
        counts: dict[str, dict[str, int]] = {}
        with self._read() as session:
            _known(session, search_id)
            for arm, state, count in session.execute(query.group_by(TrialRow.arm, TrialRow.state)):
                counts.setdefault(arm, {})[state] = count
        return counts

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        with self._write.begin() as session:
            self._own(session, search_id, attempt)
            row = ArtifactRow(search_id=search_id, name=artifact.name, size=artifact.size, sha256=artifact.sha256)
            session.merge(row)

    def artifacts(self, search_id: str) -> list[Artifact]:
        """The search's files by name."""
        query = select(ArtifactRow).where(ArtifactRow.search_id == search_id)
        with self._read() as session:
            _known(session, search_id)
            found = [Artifact(row.name, row.size, row.sha256) for row in session.scalars(query)]
        return sorted(found, key=lambda artifact: artifact.name)  # here, because collations differ

    def _now(self, plus_seconds: float = 0) -> ColumnElement[datetime]:
        """The database's clock: of its server, or of the one machine that SQLite lives on."""
        later = timedelta(seconds=plus_seconds)
        if self._engine.dialect.name == "postgresql":
            return func.now() + later
        return literal(datetime.now(UTC) + later, UtcDateTime())

    def _own(self, session: Session, search_id: str, attempt: int, **values: Any) -> int:
        """Update the search's row as its owner and return its event count; LeaseLostError for anybody else."""
        mine = (SearchRow.id == search_id, SearchRow.attempt == attempt, SearchRow.state.in_(_OWNED))
        change = update(SearchRow).where(*mine).values(updated_at=self._now(), **values).returning(SearchRow.events)
        events = session.scalar(change.execution_options(synchronize_session=False))
        if events is None:
            row = _search(session, search_id)
            raise rules.lease_lost(search_id, attempt, row.state, row.attempt)
        return events

    def _end(self, session: Session, row: SearchRow, state: SearchState) -> None:
        row.state = state.value
        row.lease_expires_at = None
        row.finished_at = self._now()
        row.updated_at = self._now()
        left_over = update(TrialRow).where(TrialRow.search_id == row.id, TrialRow.ended_at.is_(None))
        session.execute(left_over.values(**_LEFT_OVER, ended_at=self._now()))


def _search(session: Session, search_id: str, *, lock: bool = False) -> SearchRow:
    row = session.get(SearchRow, search_id, with_for_update=lock)
    if row is None:
        raise rules.no_search(search_id)
    return row


def _written(session: Session, row: SearchRow) -> SearchRow:
    """The row after its pending changes, with the times the database set."""
    session.flush()
    session.refresh(row)
    return row


def _known(session: Session, search_id: str) -> None:
    if session.scalar(select(SearchRow.id).where(SearchRow.id == search_id)) is None:
        raise rules.no_search(search_id)


def _snapshot(session: Session, search_id: str) -> dict[str, Any] | None:
    return session.scalar(select(SnapshotRow.body).where(SnapshotRow.search_id == search_id))


def _put_back_running_trials(session: Session, search_id: str) -> None:
    running = update(TrialRow).where(TrialRow.search_id == search_id, TrialRow.state == TrialState.RUNNING.value)
    session.execute(running.values(state=TrialState.PENDING.value))


def _change_open_trial(session: Session, search_id: str, number: int, **values: Any) -> int:
    """Change a trial that has no outcome and return its attempt."""
    here = (TrialRow.search_id == search_id, TrialRow.number == number)
    change = update(TrialRow).where(*here, TrialRow.ended_at.is_(None)).values(**values).returning(TrialRow.attempt)
    attempt = session.scalar(change.execution_options(synchronize_session=False))
    if attempt is None:
        missing = session.get(TrialRow, (search_id, number)) is None
        raise rules.no_trial(search_id, number) if missing else rules.already_told(search_id, number)
    return attempt
