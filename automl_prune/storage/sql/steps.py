"""What the methods of the SQL store are made of: each works inside a transaction that is under way."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Insert, Row, String, bindparam, delete, event, func, insert, select, update
from sqlalchemy.orm import Session, undefer

from automl_prune.loop.audit import Action, Origin
from automl_prune.loop.job import EventKind, SearchJob, SearchState
from automl_prune.storage import rows, rules
from automl_prune.storage.database import Database
from automl_prune.storage.tables import AttemptRow, Base, SearchRow, SnapshotRow, TrialRow
from automl_prune.storage.trail import Trail
from automl_prune.trial import TrialState

log = logging.getLogger("automl_prune.searches")

CHANNEL = "automl_prune_events"
"""Where PostgreSQL tells listeners of new events; the payload is the search's id."""

# What is written for each trial goes to the tables themselves, past the objects: that takes half of the time
SEARCHES, TRIALS, EVENTS, COUNTS = (Base.metadata.tables[name] for name in ("searches", "trials", "events", "trial_counts"))

_OWNED = [state.value for state in rules.OWNED]
_LEFT_OVER = {"state": rules.LEFT_OVER.state.value, "outcome": rules.outcome_to_json(rules.LEFT_OVER)}


class Steps:
    """Base of the store's parts.

    Attributes:
        database: What it is kept in; others may keep their things there too.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self._trail = Trail(self.database)

    def _own(self, session: Session, search_id: str, attempt: int, *also: Any, **values: Any) -> Row[Any]:
        """Update the search's row as its owner; LeaseLostError for anybody else.

        Returns its ``events`` and ``tenant``, and the columns that are named ``also``.
        """
        mine = (SEARCHES.c.id == search_id, SEARCHES.c.attempt == attempt, SEARCHES.c.state.in_(_OWNED))
        change = update(SEARCHES).where(*mine).values(updated_at=self.database.now(), **values)
        row = session.execute(change.returning(SEARCHES.c.events, SEARCHES.c.tenant, *also)).one_or_none()
        if row is None:
            found = find(session, search_id)
            raise rules.lease_lost(search_id, attempt, found.state, found.attempt)
        return row

    def _owned(self, session: Session, search_id: str, attempt: int, **values: Any) -> SearchRow:
        """Update the search's row as its owner, and read it."""
        self._own(session, search_id, attempt, **values)
        return find(session, search_id)

    def _changed(self, row: SearchRow) -> None:
        """Note that the search itself was changed."""
        row.version += 1
        row.updated_at = self.database.now()

    def _queue(self, session: Session, row: SearchRow, reason: str | None) -> None:
        self._leave(session, row, SearchState.QUEUED, reason)

    def _pause(self, session: Session, row: SearchRow, reason: str = rules.PAUSED) -> None:
        row.pause_requested = False
        self._leave(session, row, SearchState.PAUSED, reason)

    def _leave(self, session: Session, row: SearchRow, state: SearchState, reason: str | None) -> None:
        """Put a search where nobody drives it, but somebody may again."""
        row.state, row.state_reason = state.value, reason
        row.lease_expires_at = row.owner = row.host = None
        self._changed(row)
        put_back_running_trials(session, row.id)
        self._tell_state(session, row)

    def _end(self, session: Session, row: SearchRow, state: SearchState, reason: str | None) -> None:
        """Bring a search to its end, and its trials and its attempt with it."""
        row.state, row.state_reason = state.value, reason
        row.lease_expires_at = row.owner = row.host = None
        row.finished_at = self.database.now()
        self._changed(row)
        left_over = update(TrialRow).where(TrialRow.search_id == row.id, TrialRow.ended_at.is_(None))
        session.execute(left_over.values(**_LEFT_OVER, ended_at=self.database.now()))
        recount(session, row.id)
        self._close_attempt(session, row, rules.ending(state, reason))
        self._tell_state(session, row)
        self._emit(session, row.id, row.tenant, EventKind.END, {"state": row.state, "reason": reason})

    def _close_attempt(self, session: Session, row: SearchRow, reason: str, *, lost: bool = False) -> None:
        running = (AttemptRow.search_id == row.id, AttemptRow.attempt == row.attempt, AttemptRow.ended_at.is_(None))
        close = update(AttemptRow).where(*running)
        session.execute(close.values(ended_at=self.database.now(), reason=reason, lost=lost))

    def _tell_state(self, session: Session, row: SearchRow) -> None:
        news = rules.state_news(row)
        self._emit(session, row.id, row.tenant, EventKind.STATE, news)
        about = {"search_id": row.id, "state": news["state"], "attempt": news["attempt"]}
        said = f"{news['state']}: {news['reason']}" if news["reason"] else news["state"]

        def tell(_: Session) -> None:
            log.info("search %s is %s", about["search_id"], said, extra=about)

        event.listen(session, "after_commit", tell, once=True)

    def _note(self, session: Session, row: SearchRow, action: Action, origin: Origin) -> None:
        """Note who changed the search, once it is changed."""
        self._trail.note(session, action, row.tenant, row.id, rules.standing(row), origin)

    def _emit(self, session: Session, search_id: str, tenant: str, kind: EventKind, data: Mapping[str, Any]) -> None:
        """Write an event, and wake up who waits for one once the transaction commits."""
        happened = {"of": search_id, "whose": tenant, "what": kind.value, "news": dict(data)}
        if self.database.on_postgresql:
            session.execute(_WRITE_AND_NOTIFY, happened)
        else:
            session.execute(_WRITE, happened | {"moment": datetime.now(UTC)})


def _event(**values: Any) -> Insert:
    told: dict[str, Any] = {
        "search_id": bindparam("of"),
        "tenant": bindparam("whose"),
        "kind": bindparam("what"),
        "data": bindparam("news"),
    }
    return insert(EVENTS).values(**told, **values)


# Put together once: two of them are written for each trial
_WRITE = _event(created_at=bindparam("moment"), txid=0)
_WRITE_AND_NOTIFY = _event(created_at=func.now(), txid=func.txid_current()).returning(
    func.pg_notify(CHANNEL, bindparam("of", type_=String))
)


def find(
    session: Session, search_id: str, *, tenant: str | None = None, lock: bool = False, result: bool = False
) -> SearchRow:
    """The search's row, with its result if that is asked for; NotFoundError when there is none, or another tenant's."""
    row = session.get(SearchRow, search_id, with_for_update=lock, options=[undefer(SearchRow.result)] if result else [])
    if row is None or tenant not in (None, row.tenant):
        raise rules.no_search(search_id)
    return row


def written(session: Session, row: SearchRow) -> SearchJob:
    """The search after its pending changes, with the times the database set."""
    session.flush()
    session.refresh(row)
    return whole(session, row)


def whole(session: Session, row: SearchRow) -> SearchJob:
    """The search with what is large about it."""
    return rows.job(row, snapshot(session, row.id), row.result if row.has_result else None)


def known(session: Session, search_id: str, tenant: str | None) -> None:
    """Raise NotFoundError unless the tenant has such a search."""
    owner = session.scalar(select(SearchRow.tenant).where(SearchRow.id == search_id))
    if owner is None or tenant not in (None, owner):
        raise rules.no_search(search_id)


def snapshot(session: Session, search_id: str) -> dict[str, Any] | None:
    """The search's snapshot."""
    return session.scalar(select(SnapshotRow.body).where(SnapshotRow.search_id == search_id))


def recount(session: Session, search_id: str) -> None:
    """Count how a search's trials ended, all of them."""
    session.execute(delete(COUNTS).where(COUNTS.c.search_id == search_id))
    key = (TRIALS.c.search_id, TRIALS.c.arm, TRIALS.c.state)
    ended = select(*key, func.count()).where(TRIALS.c.search_id == search_id, TRIALS.c.ended_at.is_not(None)).group_by(*key)
    session.execute(insert(COUNTS).from_select(["search_id", "arm", "state", "number"], ended))


def put_back_running_trials(session: Session, search_id: str) -> None:
    """Let the trials wait that a driver was working on."""
    running = update(TrialRow).where(TrialRow.search_id == search_id, TrialRow.state == TrialState.RUNNING.value)
    session.execute(running.values(state=TrialState.PENDING.value))
