"""Forgetting old events, so that the outbox does not grow for ever."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from automl_prune.storage.database import Database
from automl_prune.storage.tables import DeliveryRow, EventRow, SearchRow, WebhookRow

_SEARCHES = 500
_AT_ONCE = 1000
"""Events that one transaction deletes: nobody waits long for it."""


@dataclass(frozen=True)
class Retention:
    """Which events are kept: those that are young enough, the last ones of each search, and what webhooks still wait for.

    Args:
        database: Whose outbox it is.
        days: For how long each event is kept.
        least: Of each search so many of the last ones are kept, however old; its end is the very last.
    """

    database: Database
    days: float
    least: int

    def prune(self) -> int:
        """Delete what need not be kept; returns how many events that were. Several may do so at once."""
        bounds: dict[str, int | None] = {}
        total = 0
        for search_id, tenant in self._old_searches():
            if tenant not in bounds:
                bounds[tenant] = self._awaited(tenant)
            total += self._prune(search_id, bounds[tenant])
        return total

    def _old_searches(self) -> Iterator[tuple[str, str]]:
        """Searches that are old enough to have old events: id and tenant."""
        last = ""
        while True:
            page = select(SearchRow.id, SearchRow.tenant).where(SearchRow.id > last, SearchRow.created_at < self._horizon)
            with self.database.read() as session:
                found = session.execute(page.order_by(SearchRow.id).limit(_SEARCHES)).all()
            yield from ((row.id, row.tenant) for row in found)
            if len(found) < _SEARCHES:
                return
            last = found[-1].id

    @property
    def _horizon(self) -> ColumnElement[datetime]:
        return self.database.now(-timedelta(days=self.days).total_seconds())

    def _awaited(self, tenant: str) -> int | None:
        """The first event of a tenant that a webhook was not told of yet, or whose place it must find again."""
        mine = (WebhookRow.tenant == tenant, WebhookRow.disabled_at.is_(None))
        position = select(func.min(WebhookRow.position)).where(*mine)
        waiting = select(func.min(DeliveryRow.event_id)).join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        waiting = waiting.where(*mine, DeliveryRow.delivered_at.is_(None), DeliveryRow.next_at.is_not(None))
        with self.database.read() as session:
            found = [number for query in (position, waiting) if (number := session.scalar(query)) is not None]
        return min(found, default=None)

    def _prune(self, search_id: str, awaited: int | None) -> int:
        with self.database.read() as session:  # mostly there is nothing to do, and no writer needs to wait for that
            if not self._due(session, search_id, awaited):
                return 0
        total = 0
        while True:
            with self.database.write() as session:
                deleted = self._some(session, search_id, awaited)
            total += deleted
            if deleted < _AT_ONCE:
                return total

    def _due(self, session: Session, search_id: str, awaited: int | None) -> Sequence[int]:
        """The oldest events of a search that need not be kept, so many as go at once."""
        mine = EventRow.search_id == search_id
        last_ones = select(EventRow.id).where(mine).order_by(EventRow.id.desc())
        spare = session.scalar(last_ones.offset(self.least).limit(1))
        if spare is None:
            return []
        old = select(EventRow.id).where(mine, EventRow.id <= spare, EventRow.created_at < self._horizon)
        if awaited is not None:
            old = old.where(EventRow.id < awaited)
        return session.scalars(old.order_by(EventRow.id).limit(_AT_ONCE)).all()

    def _some(self, session: Session, search_id: str, awaited: int | None) -> int:
        """Delete the oldest events of a search, and note up to which one they are gone."""
        numbers = self._due(session, search_id, awaited)
        if not numbers:
            return 0
        session.execute(delete(DeliveryRow).where(DeliveryRow.event_id.in_(numbers)))
        session.execute(delete(EventRow).where(EventRow.id.in_(numbers)))
        gone = update(SearchRow).where(SearchRow.id == search_id, SearchRow.events_pruned < numbers[-1])
        session.execute(gone.values(events_pruned=numbers[-1]).execution_options(synchronize_session=False))
        return len(numbers)
