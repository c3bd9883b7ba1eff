"""Events of searches as they happen, for many listeners: each event is read once per process, whoever follows it.

A listener first reads what it missed from the store, by itself, and then takes what its search's channel hands out. Events
of one search have rising ids in the order of their commits, so that an id is a place to go on from.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import aclosing, contextmanager

from anyio import to_thread
from fastapi.sse import ServerSentEvent

from automl_prune.loop.job import Event, EventKind
from automl_prune.loop.ports import Store
from automl_prune.storage.watching import Watcher
from services.api.problems import STORE_ERRORS, RequestError
from services.news import told

log = logging.getLogger(__name__)

PAGE = 500
BEHIND = 5_000
"""Events that wait for a listener before it is sent away; it comes back and goes on where it was."""
RETRY_MS = 3_000

Item = tuple[int, ServerSentEvent]


class Listener:
    """One open stream: its events in order, each once."""

    def __init__(self, search_id: str, key: str, after: int, *, over: bool = False) -> None:
        self.search_id, self.key, self.after, self.over = search_id, key, after, over
        self._waiting: deque[Item] = deque()
        self._woken = asyncio.Event()

    def put(self, items: Collection[Item]) -> None:
        """Hand events over, or send the listener away when it is too far behind."""
        self._waiting.extend(items)
        if len(self._waiting) > BEHIND:
            self.stop()
        self._woken.set()

    def stop(self) -> None:
        """End the stream."""
        self.over = True
        self._woken.set()

    async def take(self) -> list[Item]:
        """What came in the meantime, at least one event unless the stream is over."""
        while not self._waiting and not self.over:
            self._woken.clear()
            await self._woken.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        return [] if self.over else taken


class _Channel:
    """The listeners of one search, and how far they have all been told."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.listeners: set[Listener] = set()


class Feed:
    """All streams of a process.

    Args:
        store: Where events are read.
        watcher: Says when to.
        most: Streams that one key may have open.
    """

    def __init__(self, store: Store, watcher: Watcher, most: int) -> None:
        self._store, self.watcher, self._most = store, watcher, most
        self._channels: dict[str, _Channel] = {}
        self._open: Counter[str] = Counter()
        self._listeners: set[Listener] = set()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._listeners)

    @contextmanager
    def listening(self, search_id: str, key: str, after: int) -> Iterator[Listener]:
        """A stream for as long as the block lasts; raises RequestError when the key has too many of them."""
        if self._open[key] >= self._most:
            detail = f"A key may have at most {self._most} streams open; close one, or ask for the search now and then."
            raise RequestError(429, "too_many_streams", detail, retry_after=5)
        listener = Listener(search_id, key, after, over=self._closed)
        self._open[key] += 1
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._leave(listener)

    async def events(self, listener: Listener) -> AsyncIterator[ServerSentEvent]:
        """The listener's events up to the search's ``end``, or a ``shutdown``; nothing of either when it is too slow."""
        async for number, event in self._missed(listener):
            listener.after = number
            yield event
            if event.event == EventKind.END:
                return
        self._join(listener)
        async for number, event in self._all(listener):
            if number > listener.after:
                listener.after = number
                yield event
            if event.event == EventKind.END:
                return
        if self._closed:
            yield ServerSentEvent(event="shutdown", data={"search_id": listener.search_id}, retry=RETRY_MS)

    def close(self) -> None:
        """End every stream, now and from now on; from the loop that serves them."""
        self._closed = True
        for listener in self._listeners:
            listener.stop()

    async def _all(self, listener: Listener) -> AsyncIterator[Item]:
        """What was missed while the listener joined, and then what happens."""
        async for item in self._missed(listener):
            yield item
        while taken := await listener.take():
            for item in taken:
                yield item

    async def _missed(self, listener: Listener) -> AsyncIterator[Item]:
        while not listener.over:
            found = await self._read(listener.search_id, listener.after)
            for item in found:
                yield item
            if len(found) < PAGE:
                return

    async def _read(self, search_id: str, after: int) -> list[Item]:
        events = await to_thread.run_sync(lambda: self._store.events(search_id, after=after, limit=PAGE))
        return [(event.id, sent(event)) for event in events]

    def _join(self, listener: Listener) -> None:
        if listener.over:
            return
        self._channels.setdefault(listener.search_id, _Channel(listener.after)).listeners.add(listener)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    def _leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._open[listener.key] -= 1
        if not self._open[listener.key]:
            del self._open[listener.key]
        channel = self._channels.get(listener.search_id)
        if channel is not None:
            channel.listeners.discard(listener)
            if not channel.listeners:
                del self._channels[listener.search_id]
        if not self._channels and self._pump is not None:
            self._pump.cancel()
            self._pump = None

    async def _run(self) -> None:
        """Read on in every channel whose search has news; runs while there is a channel."""
        async with aclosing(self.watcher.changes()) as changes:
            async for touched in changes:
                for search_id in list(self._channels) if touched is None else touched:
                    await self._advance(search_id)

    async def _advance(self, search_id: str) -> None:
        while (channel := self._channels.get(search_id)) is not None:
            try:
                found = await self._read(search_id, channel.after)
            except STORE_ERRORS as error:
                log.warning("the events of %s cannot be read (%s); trying again", search_id, type(error).__name__)
                await asyncio.sleep(1)
                continue
            if found:
                channel.after = found[-1][0]
            for listener in channel.listeners:
                listener.put(found)
            if len(found) < PAGE:
                return


def sent(event: Event) -> ServerSentEvent:
    """An event on the wire."""
    return ServerSentEvent(id=str(event.id), event=event.kind.value, raw_data=json.dumps(told(event)))
