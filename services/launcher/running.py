"""A driver process, and what to say of one that ended."""

import signal
import subprocess
import time
from dataclasses import dataclass, field

from automl_prune.loop.job import SearchJob

GIVEN_BACK = "queued again: the service was stopped"

_OUT_OF_MEMORY = ", out of memory?"


@dataclass
class Running:
    """A search and the process that drives it.

    Attributes:
        trials_before: How many of its trials had their outcome when it was started.
        on_local_ray: Whether it is lost with this machine's Ray.
        fate: Why it was killed, if it was.
        asked_to_stop: When the search was first seen to be cancelled (monotonic).
    """

    job: SearchJob
    process: subprocess.Popen[bytes]
    trials_before: int = 0
    on_local_ray: bool = False
    fate: str | None = None
    asked_to_stop: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def kill(self, fate: str) -> None:
        """End it at once, for a reason that the search will show."""
        self.fate = self.fate or fate
        self.process.kill()

    def stop(self, grace: float) -> None:
        """Wait until it ended in order, or kill it; it was asked to before."""
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Let go of a process that is gone."""
        if self.process.stdin:
            self.process.stdin.close()

    def overdue(self, seconds: float) -> bool:
        """Whether it has not stopped for so long after it was first noticed that it should."""
        self.asked_to_stop = self.asked_to_stop or time.monotonic()
        return time.monotonic() - self.asked_to_stop > seconds

    def how_it_ended(self) -> str:
        """In words: with which exit code, or by which signal."""
        return self.fate or said_of_exit(self.process.returncode)


def said_of_exit(code: int) -> str:
    """An exit code of :class:`subprocess.Popen` in words; a signal also as a shell shows it."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it was ended by {name} (exit {128 - code}{_OUT_OF_MEMORY if -code == signal.SIGKILL else ''})"
