"""A device elsewhere: what is asked of it waits in a store until its agent comes for it."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from automl_prune.errors import DeviceAwayError, DeviceError, MeasurementError, NotFoundError
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import LOCAL, OnTiming, StopCheck, never_stopped
from automl_prune.latency.registered import DeviceStore, Measurement, RegisteredDevice
from automl_prune.latency.work import Work

AT_ONCE = 100
"""Measurements of one batch: enough to keep an agent busy, and few to read again and again."""
MOST_FAILURES = 3
"""How often something is asked for that the device fails to time."""
WANTED_SECONDS = 60.0
"""How long work waits for an agent after the process that wants it was last there."""


class RemoteDevice:
    """A registered device; nothing is sent to it, its agent asks for work.

    Args:
        store: What agents talk to.
        tenant: Whose it is.
        name: Its name.
        silent_seconds: After so long without a word from its agent a device counts as gone.
        patience_seconds: How long to wait for one that is gone.
        search_id: What its work is for.
        poll_seconds: How often to look for results.
        check: Called while waiting; what it raises ends the wait.
        waits: Told in words when the agent is waited for.
    """

    def __init__(
        self,
        store: DeviceStore,
        tenant: str,
        name: str,
        *,
        silent_seconds: float,
        patience_seconds: float = 0.0,
        search_id: str | None = None,
        poll_seconds: float = 0.5,
        check: StopCheck = never_stopped,
        waits: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = name
        self._store, self._tenant, self._search_id = store, tenant, search_id
        self._silent, self._patience, self._poll = silent_seconds, patience_seconds, poll_seconds
        self._check, self._waits = check, waits
        self._expected: DeviceDescription | None = None

    def describe(self) -> DeviceDescription:
        """What it is, and whose; waits for it where it is gone.

        Raises DeviceError for one that is unknown, DeviceAwayError for one that stays away.

        What is timed later is kept for what it is the first time; once it has become another device nothing more is timed.

        What is measured is kept by description and read by all searches. Anybody's agent may claim to be any machine, so
        that nobody's but its own tenant's searches may ever read what it brought.
        """
        give_up = time.monotonic() + self._patience
        while True:
            self._check()
            found = self._registered()
            if found.silent_seconds <= self._silent:
                self._expected = self._expected or found.description
                facts = {**found.description.fingerprint, "agent": f"{self._tenant}/{self.name}"}
                return DeviceDescription(facts, found.description.runtimes)
            if time.monotonic() >= give_up:
                raise self._away(found)
            self._wait_for(found)

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        """Have all timed by the agent.

        When it vanishes meanwhile it is waited for; what it was at is handed out again once it is back.

        Raises:
            DeviceAwayError: It stayed away.
            DeviceError: It was removed, or has been registered as another since it was described.
            MeasurementError: It cannot time something, however often it is asked to.
        """
        for first in range(0, len(works), AT_ONCE):
            failed = self._batch(works[first : first + AT_ONCE], conditions, done)
            for one in failed:
                self._again(one, conditions, done)

    def _again(self, failed: Measurement, conditions: Conditions, done: OnTiming) -> None:
        """Ask once more for what failed, as an agent may have been short of memory or shut down; not for ever."""
        for _ in range(MOST_FAILURES - 1):
            last = self._batch([failed.work], conditions, done)
            if not last:
                return
            failed = last[0]
        raise MeasurementError(
            f"Device {self.name!r} could not time {named(failed.work)}, asked {MOST_FAILURES} times: {failed.error}"
        )

    def _batch(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> list[Measurement]:
        """Have all timed; returns those that failed."""
        about: dict[str, Any] = {"wanted_seconds": self._wanted, "search_id": self._search_id, "expected": self._expected}
        self._registered()
        added = self._store.add(self._tenant, self.name, conditions, works, **about)
        batch, left, failed = added[0].batch, {one.id for one in added}, list[Measurement]()
        try:
            while left:
                self._check()
                for one in self._results(batch):
                    if one.id in left:
                        left.discard(one.id)
                        if one.timing is not None:
                            done(one.work, one.timing)
                        else:
                            failed.append(one)
                if left:
                    self._wait()
        finally:
            if left:
                with suppress(NotFoundError):  # it was removed
                    self._store.cancel(self._tenant, batch)
        return failed

    def _results(self, batch: str) -> list[Measurement]:
        try:
            return self._store.results(self._tenant, batch, wanted_seconds=self._wanted)
        except NotFoundError:
            self._registered()
            raise DeviceError(f"Device {self.name!r} was removed, and with it what it was asked to time.") from None

    @property
    def _wanted(self) -> float:
        return max(WANTED_SECONDS, 10 * self._poll)

    def _wait(self) -> None:
        found = self._registered()
        if found.silent_seconds > self._silent + self._patience:
            raise self._away(found)
        if found.silent_seconds > self._silent:
            self._wait_for(found)
        else:
            time.sleep(self._poll)

    def _wait_for(self, found: RegisteredDevice) -> None:
        self._waits(f"waiting for {self.name!r}, last heard of at {found.last_seen_at:%H:%M:%S} UTC")
        time.sleep(self._poll)

    def _registered(self) -> RegisteredDevice:
        try:
            return self._store.device(self._tenant, self.name)
        except NotFoundError:
            known = ", ".join([LOCAL, *(device.name for device in self._store.devices(self._tenant))])
            raise DeviceError(
                f"No device is called {self.name[:80]!r}; known: {known}. "
                f"'automl-prune agent --name NAME', run on a device, makes it known."
            ) from None

    def _away(self, found: RegisteredDevice) -> DeviceAwayError:
        said = (
            f"Device {self.name!r} was last heard of {ago(found.silent_seconds)}; "
            f"start 'automl-prune agent --name {self.name}' there."
        )
        return DeviceAwayError(self.name, found.last_seen_at, said)


def ago(seconds: float) -> str:
    """How long ago something was, in words."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def named(work: Work) -> str:
    """A piece of work in words."""
    data = work.to_json()
    return f"{data['network']} at {dict(data['widths'])}" if "network" in data else f"a block ({data})"
