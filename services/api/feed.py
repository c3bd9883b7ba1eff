"""Events of searches as they happen, for many listeners: each is read and put into words once per process, whoever follows.

A listener first reads what it missed from the store, by itself, and then takes what its search's channel hands out. Events
of one search have rising ids in the order of their commits, so that an id is a place to go on from.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple

from anyio import to_thread

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
PING_SECONDS = 15.0
"""A stream is never silent for longer: what stands between may take silence for the end."""
PING = b": ping\n\n"
KEY_SECONDS = 60.0
"""For how long, at most, a stream outlives its key."""


class Item(NamedTuple):
    """An event as it is sent to everybody: its number, its bytes, and whether it is a search's last."""

    id: int
    wire: bytes
    last: bool


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
        """What came in the meantime; nothing after a while in which nothing came, or when the stream is over."""
        while not self._waiting and not self.over:
            self._woken.clear()
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                return []
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
        still_admits: Tells which of some keys, by id, still let one in.
    """

    def __init__(
        self, store: Store, watcher: Watcher, most: int, still_admits: Callable[[Collection[str]], Collection[str]]
    ) -> None:
        self._store, self.watcher, self._most, self._still_admits = store, watcher, most, still_admits
        self._channels: dict[str, _Channel] = {}
        self._open: Counter[str] = Counter()
        self._listeners: set[Listener] = set()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._listeners)

    @property
    def closed(self) -> bool:
        """Whether the server stops, and nothing should be waited for any more."""
        return self._closed

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

    async def stream(self, listener: Listener) -> AsyncIterator[bytes]:
        """The listener's events up to the search's ``end``, or a ``shutdown``.

        Neither comes when the listener is too slow, or its key is not valid any more.
        """
        yield f"retry: {RETRY_MS}\n\n".encode()
        if pruned := await to_thread.run_sync(self._pruned, listener):
            listener.after = pruned
            yield wire("reset", {"id": pruned, "event": "reset", "search_id": listener.search_id}, pruned)
        async for items in self._all(listener):
            new = [item for item in items if item.id > listener.after]
            if new:
                listener.after = new[-1].id
            yield b"".join(item.wire for item in new) or PING
            if any(item.last for item in new):
                return
        if self._closed:
            yield wire("shutdown", {"search_id": listener.search_id})

    def close(self) -> None:
        """End every stream, now and from now on; from the loop that serves them."""
        self._closed = True
        for listener in self._listeners:
            listener.stop()

    def _pruned(self, listener: Listener) -> int:
        """The last event that is not kept any more, where the listener has not had it; else 0."""
        gone = self.watcher.pruned(listener.search_id)
        return gone if gone > listener.after else 0

    async def _all(self, listener: Listener) -> AsyncIterator[list[Item]]:
        """What was missed, what was missed while the listener joined, and then what happens."""
        async for items in self._missed(listener):
            yield items
        self._join(listener)
        async for items in self._missed(listener):
            yield items
        while not listener.over:
            taken = await listener.take()
            if taken or not listener.over:
                yield taken

    async def _missed(self, listener: Listener) -> AsyncIterator[list[Item]]:
        while not listener.over:
            found = await self._read(listener.search_id, listener.after)
            if found:
                yield found
            if len(found) < PAGE:
                return

    async def _read(self, search_id: str, after: int) -> list[Item]:
        events = await to_thread.run_sync(lambda: self._store.events(search_id, after=after, limit=PAGE))
        return [sent(event) for event in events]

    def _join(self, listener: Listener) -> None:
        if listener.over:
            return
        self._channels.setdefault(listener.search_id, _Channel(listener.after)).listeners.add(listener)
        if self._pump is None or self._pump.done():
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
        """Hand out what happens, and send away whom nobody admits any more; runs while there is a channel."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hand_out())
            tasks.create_task(self._watch_keys())

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(KEY_SECONDS)
            asked = {listener.key for listener in self._listeners}
            try:
                admitted = await to_thread.run_sync(self._still_admits, asked)
            except Exception as error:  # whatever it is, others listen on
                log.warning("the keys of streams cannot be read (%s); trying again", type(error).__name__)
                continue
            for listener in self._listeners:
                if listener.key in asked.difference(admitted):
                    listener.stop()

    async def _hand_out(self) -> None:
        """Read on in every channel whose search has news."""
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
            except Exception:
                log.exception("the events of %s cannot be read; its listeners may come back", search_id)
                for listener in channel.listeners:
                    listener.stop()
                return
            if found:
                channel.after = found[-1].id
            for listener in channel.listeners:
                listener.put(found)
            if len(found) < PAGE:
                return


def sent(event: Event) -> Item:
    """An event for everybody who listens."""
    return Item(event.id, wire(event.kind.value, told(event), event.id), event.kind is EventKind.END)


def wire(kind: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """An event as bytes: in JSON there is no end of line that could end it too early."""
    place = f"id: {number}\n" if number is not None else ""
    return f"event: {kind}\ndata: {json.dumps(data)}\n{place}\n".encode()
