"""Noticing at once that there are new events: one watcher per process, for everybody in it who follows a search."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from automl_prune.storage.database import Database
from automl_prune.storage.engine import patience
from automl_prune.storage.sql.steps import CHANNEL
from automl_prune.storage.tables import EventRow, SearchRow

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often a SQLite file is asked for the number of its last event."""
QUIET_SECONDS = 5.0
"""A listener on PostgreSQL that hears nothing for so long has everybody look, in case it was told in vain."""
_AGAIN_SECONDS = 1.0
_MOST = 10_000


class Watcher:
    """Tells which searches have new events.

    Args:
        database: PostgreSQL notifies, SQLite is polled.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self, search_id: str | None = None) -> int:
        """The number of the last event, of a search or of all; 0 before the first."""
        query = select(func.max(EventRow.id))
        if search_id is not None:
            query = query.where(EventRow.search_id == search_id)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def pruned(self, search_id: str) -> int:
        """The number of a search's last event that is not kept any more; 0 while all are."""
        with self._database.read() as session:
            return session.scalar(select(SearchRow.events_pruned).where(SearchRow.id == search_id)) or 0

    async def changes(self) -> AsyncGenerator[Collection[str] | None]:
        """Ids of searches that have new events, again and again; None: any of them may have.

        A database that is away is waited for.
        """
        rounds = self._notified() if self._database.on_postgresql else self._polled()
        async with aclosing(rounds):
            async for touched in rounds:
                yield touched

    async def _polled(self) -> AsyncGenerator[Collection[str] | None]:
        seen: int | None = None
        while True:
            try:
                last = await asyncio.to_thread(self.last)
                if seen is None or last != seen:
                    yield None if seen is None else await asyncio.to_thread(self._touched, seen)
                seen = last
            except Exception as error:
                log.warning("the database does not say what is new (%s); trying again", type(error).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    def _touched(self, after: int) -> Collection[str] | None:
        """Searches with events after the one given; SQLite numbers them in the order of their commits."""
        query = select(EventRow.search_id).where(EventRow.id > after).limit(_MOST)
        with self._database.read() as session:
            found = session.scalars(query).all()
        return None if len(found) == _MOST else set(found)

    async def _notified(self) -> AsyncGenerator[Collection[str] | None]:
        while True:
            try:
                async with await self._connected() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    yield None
                    while True:
                        heard = {n.payload async for n in connection.notifies(timeout=QUIET_SECONDS, stop_after=1)}
                        yield heard or None
            except Exception as error:
                log.warning("PostgreSQL does not say what is new (%s); trying again", type(error).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _connected(self) -> "psycopg.AsyncConnection[Any]":
        import psycopg

        url = self._database.engine.url
        arguments = {**self._database.engine.dialect.create_connect_args(url)[1], **patience(url)}
        return await psycopg.AsyncConnection.connect(**arguments, autocommit=True)
