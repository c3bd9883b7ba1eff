"""Processes that a command starts, and that never outlive it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from services.settings import PREFIX, Settings, environment

Stream = IO[bytes] | int | None


def start(module: str, *arguments: str, settings: Settings, stdout: Stream = None, stderr: Stream = None) -> "Child":
    """Run ``python -m module`` with these settings, and no other ones from this process's environment.

    It has a session of its own, so that Ctrl-C reaches only the command, which then ends it in order.
    """
    command = [sys.executable, "-m", "services.cli.tethered", module, *arguments]
    return subprocess.Popen(
        command,
        env=_variables(settings),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def end(child: "Child", grace: float) -> None:
    """Ask a process to stop, wait for at most ``grace`` seconds, or until Ctrl-C, and then kill it."""
    with child:
        child.terminate()
        try:
            child.wait(grace)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.kill()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that what it started is ended too."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _variables(settings: Settings) -> Mapping[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return others | environment(settings)


Child = subprocess.Popen[bytes]
