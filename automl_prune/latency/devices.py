"""The port to a device, and the machine that this process runs on as one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # no such thing on Windows
    fcntl = None  # type: ignore[assignment]

from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.stopwatch import Stopwatches, TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work

LOCAL = "local"
"""The name of the machine that drives searches."""

OnTiming = Callable[[Work, Timing], None]
StopCheck = Callable[[], None]
"""Called again and again while something takes long; what it raises ends that."""


def never_stopped() -> None:
    """The check of what is never stopped."""


class Device(Protocol):
    """Something that times work, here or elsewhere."""

    name: str

    def describe(self) -> DeviceDescription:
        """What it is; raises DeviceError where it is unknown or not heard of."""
        ...

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        """Time all, calling ``done`` with each as soon as it is there.

        Raises:
            DeviceError: The device cannot do this, or is not heard of any more.
            MeasurementError: Something cannot be timed.
        """
        ...


class LocalDevice:
    """This machine.

    Args:
        networks: Those that are at hand and need not be built by name.
        lock: A file that processes take turns by, so that searches on one machine do not time at the same moment.
        check: Called before each timing.
    """

    name = LOCAL

    def __init__(
        self,
        networks: Mapping[str, TracedNetwork] | None = None,
        lock: Path | None = None,
        *,
        check: StopCheck = never_stopped,
    ) -> None:
        self._stopwatches, self._lock, self._check = Stopwatches(networks), lock, check

    def describe(self) -> DeviceDescription:
        """What this machine is."""
        return describe_this_machine()

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        """Time one after the other, in this process: what never ends is not stopped, and what crashes takes it along."""
        for work in works:
            self._check()
            with taking_turns(self._lock):
                timing = self._stopwatches.time(conditions, work)
            done(work, timing)


@contextmanager
def taking_turns(file: Path | None) -> Iterator[None]:
    """Wait until no other process holds the file, and hold it; None: there is nobody to wait for."""
    if file is None or fcntl is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
