"""Hearing that there is news of a search, so that nobody asks while nothing happens."""

import threading
import time
from types import TracebackType

from services.cli.client import Client, RefusedError, UnreachableError

QUIET_SECONDS = 30.0
"""After so long without an event somebody looks all the same."""
_TOGETHER_SECONDS = 0.2
"""Events that come in a burst are one piece of news."""
_AGAIN_SECONDS = 1.0


class News:
    """Listens to a search's events in a thread of its own, for the length of a ``with`` block.

    Args:
        client: Of the server; it may be used meanwhile.
        search_id: The search.
    """

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._id = client, search_id
        self._told, self._over = threading.Event(), threading.Event()
        self._listening = False
        self._thread = threading.Thread(target=self._listen, name="news", daemon=True)

    def __enter__(self) -> "News":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()  # the thread ends with the stream, or with the process

    def wait(self, pause: float) -> None:
        """Wait for news; where the stream cannot be heard, for ``pause`` seconds."""
        deadline = time.monotonic() + QUIET_SECONDS
        while not self._told.wait(pause) and self._listening and time.monotonic() < deadline:
            pass
        time.sleep(min(pause, _TOGETHER_SECONDS))
        self._told.clear()

    def _listen(self) -> None:
        after = "latest"
        while not self._over.is_set():
            try:
                for event in self._client.events(self._id, after, self._opened):
                    after = str(event.get("id", after))
                    self._told.set()
            except (RefusedError, UnreachableError, RuntimeError):  # the last: the client was closed meanwhile
                pass
            self._listening = False
            self._over.wait(_AGAIN_SECONDS)

    def _opened(self) -> None:
        self._listening = True
        self._told.set()  # what happened before is not told again
