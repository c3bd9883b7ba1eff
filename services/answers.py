"""What child processes answer on their stdout, in lines of JSON, for as long as one waits; and how they ended."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from automl_prune.latency.devices import StopCheck, never_stopped

_DYING_SECONDS = 5.0
_CHECK_SECONDS = 0.5


class Clock:
    """Counts down, and can be set anew."""

    def __init__(self, seconds: float) -> None:
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Count down from here."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until it has run down."""
        return max(0.0, self._end - time.monotonic())


def messages(
    child: subprocess.Popen[bytes], clock: Clock, *, check: StopCheck = never_stopped
) -> Iterator[Mapping[str, Any]]:
    """What the child says, line by line, until it closes its stdout; ``check`` is called now and then meanwhile.

    Raises:
        TimeoutError: The clock has run down.
    """
    assert child.stdout is not None
    descriptor, rest = child.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            while not selector.select(min(clock.left(), _CHECK_SECONDS)):
                check()
                if not clock.left():
                    raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)


def how_it_ended(child: subprocess.Popen[bytes]) -> str:
    """How a child ended that said nothing in the end; it is not waited for."""
    limit = time.monotonic() + _DYING_SECONDS
    while (ended := os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
        if time.monotonic() > limit:
            return "closed its output and went on"
        time.sleep(0.02)
    if ended.si_code == os.CLD_EXITED:
        return f"ended with exit code {ended.si_status}"
    hint = ", as the system does when memory runs out" if ended.si_status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(ended.si_status).name}{hint}"
