"""Devices of a service's users, as the loop looks them up; and how a search waits for them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from automl_prune.errors import MeasurementError
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import LOCAL, OnTiming, StopCheck
from automl_prune.latency.registered import DeviceStore
from automl_prune.latency.remote import RemoteDevice, named
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.work import Work
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.latencies import DeviceLookup, ThisMachine
from automl_prune.loop.ports import Store
from services.measuring import Measuring
from services.settings import Settings

_TELL_SECONDS = 1.0


def registered(store: DeviceStore, tenant: str, settings: Settings) -> DeviceLookup:
    """A lookup that only asks what devices are: one that is silent is refused at once."""
    return lambda name: RemoteDevice(store, tenant, name, silent_seconds=settings.device_silent_seconds)


class IsolatedMachine:
    """This machine, timing in a process of its own: what hangs or crashes there cannot be timed, and that is all.

    Args:
        measuring: The process.
        lock: A file that processes take turns by.
        check: Called before each timing.
    """

    name = LOCAL

    def __init__(self, measuring: Measuring, lock: Path, *, check: StopCheck) -> None:
        self._measuring, self._lock, self._check = measuring, lock, check

    def describe(self) -> DeviceDescription:
        """What this machine is."""
        return describe_this_machine()

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        """Time one after the other; raises MeasurementError, which names what cannot be timed."""
        for work in works:
            self._check()
            try:
                timing = self._measuring.time(conditions, work, lock=self._lock)
            except MeasurementError as error:
                raise MeasurementError(f"Device {LOCAL!r} could not time {named(work)}: {error}") from error
            done(work, timing)


class StoppedError(Exception):
    """A user asked for the search to stop or to pause while devices were at work for it."""


@dataclass
class Preparing:
    """How far the devices of a search are, told to those who watch it; ends with StoppedError when it is to stop.

    Attributes:
        store, job: The claimed search.
        cancelled, paused: Whether a user asked for that.
        over: Set once the search goes on: then devices that are waited for are told of in whatever state it is.
    """

    store: Store
    job: SearchJob
    cancelled: Callable[[], bool]
    paused: Callable[[], bool]
    over: bool = False
    _told: float = field(default=float("-inf"), repr=False)

    def progress(self, device: str, done: int, of: int) -> None:
        """A device has timed so much of what it has to."""
        self.check()
        self._tell(f"timing blocks on {device!r}: {done} of {of}")

    def check(self) -> None:
        """Raise StoppedError when the search is to stop."""
        self.check_midway()
        if self.paused():
            raise StoppedError

    def check_midway(self) -> None:
        """Raise StoppedError when a timing is to be broken off: a pause waits for it once trials may be in flight too."""
        if self.cancelled() or (self.paused() and not self.over):
            raise StoppedError

    def local(self, measuring: Measuring) -> ThisMachine:
        """This machine, which works for the search in a process of its own."""
        return lambda lock: IsolatedMachine(measuring, lock, check=self.check_midway)

    def devices(self, store: DeviceStore, settings: Settings) -> DeviceLookup:
        """A lookup of devices that work for the search, and are waited for."""
        return lambda name: RemoteDevice(
            store,
            self.job.tenant,
            name,
            silent_seconds=settings.device_silent_seconds,
            patience_seconds=settings.device_patience_seconds,
            search_id=self.job.id,
            check=self.check,
            waits=self._tell,
        )

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            state = self.store.get_search(self.job.id).state if self.over else SearchState.PREPARING
            self.store.set_state(self.job.id, self.job.attempt, state, reason=reason)
