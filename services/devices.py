"""Devices of a service's users, as the loop looks them up; and how a search waits for them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from automl_prune.latency.registered import DeviceStore
from automl_prune.latency.remote import RemoteDevice
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.latencies import DeviceLookup
from automl_prune.loop.ports import Store
from services.settings import Settings

_TELL_SECONDS = 1.0


def registered(store: DeviceStore, tenant: str, settings: Settings) -> DeviceLookup:
    """A lookup that only asks what devices are: one that is silent is refused at once."""
    return lambda name: RemoteDevice(store, tenant, name, silent_seconds=settings.device_silent_seconds)


class StoppedError(Exception):
    """A user asked for the search to stop or to pause while devices were at work for it."""


@dataclass
class Preparing:
    """How far the devices of a search are, told to those who watch it; ends with StoppedError when it is to stop.

    Attributes:
        store, job: The claimed search.
        stopping: Whether a user asked for it to stop.
        over: Set once the search goes on: then devices that are waited for are told of in whatever state it is.
    """

    store: Store
    job: SearchJob
    stopping: Callable[[], bool]
    over: bool = False
    _told: float = field(default=float("-inf"), repr=False)

    def progress(self, device: str, done: int, of: int) -> None:
        """A device has timed so much of what it has to."""
        self.check()
        self._tell(f"timing blocks on {device!r}: {done} of {of}")

    def check(self) -> None:
        """Raise StoppedError when the search is to stop."""
        if self.stopping():
            raise StoppedError

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
