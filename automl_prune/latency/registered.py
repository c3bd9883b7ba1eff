"""Devices elsewhere and what they are asked to time: the nouns, and the port to where both are kept.

A DeviceStore, by who talks to it (every one holds :class:`automl_prune.testing.store_devices.DeviceContract`):

======== =========================================================================================
agents   ``register``, ``claim``, ``renew``, ``record``: through the API, for their own tenant
people   ``remove``: through the API
searches ``device``, ``devices``, ``add``, ``results``, ``cancel``
======== =========================================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work


class MeasurementState(StrEnum):
    """Where a measurement is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self not in (MeasurementState.PENDING, MeasurementState.RUNNING)


@dataclass(frozen=True)
class RegisteredDevice:
    """A device that an agent speaks for.

    Attributes:
        tenant: Whose it is; nobody else sees it.
        name: One of its kind within the tenant.
        description: What the agent says it is.
        registered_at, last_seen_at: By the store's clock.
        silent_seconds: Since it was last heard of, by the store's clock.
        measured, failed: What came of its measurements.
        noise: Median relative standard error of the last ones; None before the first.
        epoch: Of the agent that registered last, which alone speaks for it; None where that did not get one yet.
    """

    tenant: str
    name: str
    description: DeviceDescription
    registered_at: datetime
    last_seen_at: datetime
    silent_seconds: float
    measured: int
    failed: int
    noise: float | None
    epoch: str | None


@dataclass(frozen=True)
class Measurement:
    """One piece of work for one device.

    Attributes:
        id: Of this measurement.
        batch: Those that were added together.
        device: Its name.
        search_id: What it is for, if for a search.
        conditions: How it is to be timed.
        work: What is to be timed.
        state: Where it is.
        attempt: How often it was handed out; what an earlier attempt brings is refused.
        timing: What came of it, when done.
        error: Why there is none, when failed or cancelled.
        created_at: When it was added.
    """

    id: str
    batch: str
    device: str
    search_id: str | None
    conditions: Conditions
    work: Work
    state: MeasurementState
    attempt: int
    timing: Timing | None
    error: str | None
    created_at: datetime


class DeviceStore(Protocol):
    """The truth about devices and their measurements; every call is one transaction.

    What does not exist, or belongs to another tenant, raises NotFoundError. What agents say carries the epoch that they
    got when they registered; once another has registered under the name, it raises AnotherAgentError.
    """

    def register(self, tenant: str, name: str, description: DeviceDescription) -> RegisteredDevice:
        """Make a device known, or say that its agent has started again: what that one was at is handed out anew.

        When it is described differently than before, its open measurements fail: what is timed from now on is not
        comparable with what was. Raises StateConflictError for one device too many.
        """
        ...

    def device(self, tenant: str, name: str) -> RegisteredDevice:
        """One device."""
        ...

    def devices(self, tenant: str) -> list[RegisteredDevice]:
        """The tenant's devices by name."""
        ...

    def remove(self, tenant: str, name: str) -> None:
        """Forget a device, and all that it was asked for: batches of it are not found any more."""
        ...

    def add(
        self,
        tenant: str,
        device: str,
        conditions: Conditions,
        works: Sequence[Work],
        *,
        wanted_seconds: float,
        search_id: str | None = None,
        expected: DeviceDescription | None = None,
    ) -> list[Measurement]:
        """Ask for measurements, as one batch; they are handed out for as long as somebody reads :meth:`results`.

        Args:
            tenant: Whose device it is.
            device: Its name.
            conditions: How all are timed.
            works: What is timed, in this order.
            wanted_seconds: For how long they are wanted if nobody asks for results.
            search_id: What they are for.
            expected: What the device is taken to be; measurements of another are of no use.

        Raises:
            DeviceError: It has been registered as something else since.
        """
        ...

    def has_work(self, tenant: str, device: str) -> bool:
        """Whether there is something to claim."""
        ...

    def claim(
        self, tenant: str, device: str, *, epoch: str, most: int, lease_seconds: float, most_attempts: int = ...
    ) -> list[Measurement]:
        """Take measurements that nobody is at, or whose lease ran out, oldest first; the device is heard of.

        Those that were handed out ``most_attempts`` times and never came back fail.
        """
        ...

    def renew(self, tenant: str, device: str, held: Mapping[str, int], *, epoch: str, lease_seconds: float) -> list[str]:
        """Extend leases of measurements, by id and attempt; the device is heard of. Returns ids not held any more."""
        ...

    def record(
        self,
        tenant: str,
        device: str,
        measurement_id: str,
        attempt: int,
        *,
        epoch: str,
        conditions: Conditions,
        timing: Timing | None = None,
        error: str | None = None,
    ) -> Measurement:
        """Store what came of a measurement: a timing, or why there is none; the same once more changes nothing.

        Raises:
            LateOutcomeError: It was handed out again, cancelled, or has another outcome.
            MeasurementError: The timing is none, or of other conditions than those that were ordered.
        """
        ...

    def results(self, tenant: str, batch: str, *, wanted_seconds: float) -> list[Measurement]:
        """Those of a batch that ended; the rest is wanted for that much longer."""
        ...

    def cancel(self, tenant: str, batch: str) -> None:
        """Ask for nothing more of a batch; what has ended stays."""
        ...
