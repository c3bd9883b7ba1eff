"""Ordering once, however often the order is sent."""

import hashlib
import json
from dataclasses import replace
from typing import Annotated

from fastapi import Header

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Idempotency
from automl_prune.loop.spec import SearchSpec

REPLAYED = "Idempotent-Replayed"

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="A key of your choice for this order, kept for 24 hours: sent again, it answers with the same search.",
    ),
]


def once(key: str, spec: SearchSpec) -> Idempotency:
    """The key with the fingerprint of what it stands for: the order with every default filled in, keys sorted."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Idempotency(key, hashlib.sha256(canonical.encode()).hexdigest())


def as_ordered(job: SearchJob, spec: SearchSpec) -> SearchJob:
    """The search as it was when it was ordered, so that an answer that comes again is the same."""
    return replace(
        job,
        name=spec.name,
        labels=spec.labels,
        priority=spec.priority,
        state=SearchState.QUEUED,
        state_reason=None,
        updated_at=job.created_at,
        started_at=None,
        finished_at=None,
        lease_expires_at=None,
        attempt=0,
        version=1,
        losses=0,
        owner=None,
        host=None,
        cancel_requested=False,
        pause_requested=False,
        best={},
        info={},
        result=None,
        snapshot=None,
    )
