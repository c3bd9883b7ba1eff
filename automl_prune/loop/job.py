"""A search on its way through the service.

queued ──► preparing ──► running ──► finishing ──► succeeded
  │            │            │            │
  └────────────┴────────────┴────────────┴──► failed | cancelled
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from automl_prune.trial import Trial


class SearchState(StrEnum):
    """Where a search is in its life (see the module's drawing)."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
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
        info: What the driver found out, JSON: ``base`` metrics, ``space``, ``splits``, ``links``, ``ray`` …
        result: The architecture JSON once there is one.
        snapshot: The strategies' states and the event sequence they stand for, or None.
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
    result: Mapping[str, Any] | None = None
    snapshot: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the store keeps it, with the order of events and its times.

    ``asked_seq`` and ``told_seq`` come from one counter per search: sorted together they replay the conversation with
    the strategies.
    """

    trial: Trial
    asked_seq: int
    told_seq: int | None
    asked_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Artifact:
    """A file of a search: name, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str
