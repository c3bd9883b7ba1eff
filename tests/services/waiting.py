"""Waiting for what other processes and threads do."""

import time
from collections.abc import Callable


def until(
    what: Callable[[], bool], seconds: float = 240, why: Callable[[], object] = lambda: "it did not happen in time"
) -> None:
    """Return once something is so; fail after ``seconds``, with what ``why`` says then."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
