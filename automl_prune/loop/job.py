"""A search on its way through the service.

queued ──► preparing ──► running ──► finishing ──► succeeded
  │            │            │            │
  └────────────┴────────────┴────────────┴──► failed | cancelled

A user may pause it in any of the first four states. One that waits is paused at once; a driven one is asked to
(``pause_requested``), and is paused when its driver gives it back. Resumed, it is queued again. A search whose driver was
lost is queued again too, as its next attempt.
"""

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from automl_prune.trial import Trial

DEFAULT_TENANT = "default"
HIGHEST_PRIORITY = 100


class SearchState(StrEnum):
    """Where a search is in its life (see the module's drawing)."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to the search."""
        return self in (SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED)


@dataclass(frozen=True)
class SearchJob:
    """An ordered search with its life; ``spec`` is the SearchSpec as JSON.

    Attributes:
        id: ``srch_`` and a sortable body.
        attempt: Counts drivers that owned the search; every write of a driver names it, and stale ones are refused.
        cancel_requested: Set by the user; the driver stops at the next trial.
        pause_requested: Set by the user while a driver holds the search; the driver gives it back.
        tenant: Whose it is; nobody else sees it.
        key_id: The API key that ordered it, whose limits it counts against; None where it took none.
        priority: Higher ones are claimed first.
        version: Counts what was changed about the search itself: its state and reason, requests, labels, name, priority,
            info and result. Its trials and renewed leases do not count.
        losses: Drivers that were lost since the last outcome was recorded.
        owner, host: Who drives it and where, while somebody does.
        best: By arm, the number of the best trial within the budgets, and its value of the objective.
        info: What the driver found out, JSON: ``base`` metrics, ``space``, ``splits``, ``links``, ``ray`` …
        has_result: Whether there is one.
        result: The architecture JSON once there is one; lists of searches and renewals leave it out, as it is large.
        snapshot: The strategies' states and the event sequence they stand for, or None; left out likewise.
    """

    id: str
    spec: Mapping[str, Any]
    state: SearchState
    created_at: datetime
    updated_at: datetime
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state_reason: str | None = None
    attempt: int = 0
    lease_expires_at: datetime | None = None
    cancel_requested: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    has_result: bool = False
    result: Mapping[str, Any] | None = None
    snapshot: Mapping[str, Any] | None = None
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    pause_requested: bool = False
    version: int = 1
    losses: int = 0
    owner: str | None = None
    host: str | None = None
    key_id: str | None = None
    best: Mapping[str, "Best"] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """A trial that none of its arm beats: its number, and its value of the objective."""

    number: int
    value: float


@dataclass(frozen=True)
class Worker:
    """Who holds a search: a name for people, the machine, and the process there."""

    name: str
    host: str
    pid: int

    @classmethod
    def here(cls, name: str) -> "Worker":
        """This process."""
        return cls(name, socket.gethostname(), os.getpid())


@dataclass(frozen=True)
class SearchAttempt:
    """One claim of a search, by whom, and how it ended; ``lost`` when its driver was."""

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    reason: str | None = None
    lost: bool = False
    worker: Worker | None = None


@dataclass(frozen=True)
class Submission:
    """What became of an order; ``replayed`` when the same one had come before, and this is that search."""

    job: SearchJob
    replayed: bool


class EventKind(StrEnum):
    """What clients are told of."""

    STATE = "search.state"
    STARTED = "trial.started"
    COMPLETED = "trial.completed"
    BEST = "best.updated"
    END = "end"


@dataclass(frozen=True)
class Event:
    """Something that happened to a search, in the order of ``id``; nothing follows its ``end``.

    ``data`` is JSON:

    - ``search.state``: ``state``, ``reason``, ``attempt``, ``cancel_requested``, ``pause_requested``
    - ``trial.started``: ``number``, ``arm``, ``attempt``
    - ``trial.completed``: ``number``, ``arm``, ``attempt``, ``state``, ``metrics``, ``reason``
    - ``best.updated`` (of the search arm): ``number``, ``metrics``
    - ``end``: ``state``, ``reason``
    """

    id: int
    search_id: str
    tenant: str
    kind: EventKind
    data: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the store keeps it, with the order of events and its times.

    ``asked_seq`` and ``told_seq`` come from one counter per search: sorted together they replay the conversation with
    the strategies. ``started_at`` is that of its last attempt.
    """

    trial: Trial
    asked_seq: int
    told_seq: int | None
    asked_at: datetime
    ended_at: datetime | None
    started_at: datetime | None = None

    @property
    def overhead(self) -> float | None:
        """Seconds from its last start to its record that were not evaluation; None where that is not known."""
        evaluated = self.trial.outcome.cost.get("seconds") if self.trial.outcome else None
        if evaluated is None or self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds() - evaluated)


@dataclass(frozen=True)
class Artifact:
    """A file of a search: name, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "Artifact":
        """A file that is there, read once; raises OSError."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(file.name, file.stat().st_size, digest)
