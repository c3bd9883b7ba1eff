"""What a search waits for, in words; known only at the moment of asking."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.rules import OWNED
from services.launcher.liveness import Seen

_SLACK = timedelta(seconds=10)
"""How far this machine's clock may be from the database's."""


def reason(
    job: SearchJob,
    store: Store,
    launchers: Sequence[Seen],
    limits: Mapping[str, int] = MappingProxyType({}),
    ahead: Mapping[str, int] | None = None,
) -> str | None:
    """Why a search is in its state; for a queued one what it waits for, and why it was queued again if it was.

    Args:
        job: The search.
        store: With what the one who asks may see.
        launchers: Those of the service, the last seen first.
        limits: Searches that an API key may have running at once, by its id, for those with such a limit.
        ahead: How many are claimed before each queued one; None: the store is asked.
    """
    if job.state in OWNED:
        return _silence(job) or job.state_reason
    if job.state is not SearchState.QUEUED:
        return job.state_reason
    waits = f"queued: {_waits_for(job, store, launchers, limits, ahead)}"
    return f"{waits} ({job.state_reason})" if job.state_reason else waits


def _silence(job: SearchJob) -> str | None:
    """What is to be said of a search whose lease ran out, and that no launcher has put right."""
    if job.lease_expires_at is None or job.lease_expires_at > datetime.now(UTC) - _SLACK:
        return None
    return f"its driver has been silent since {_moment(min(job.updated_at, job.lease_expires_at))}; waiting for a launcher"


def _waits_for(
    job: SearchJob,
    store: Store,
    launchers: Sequence[Seen],
    limits: Mapping[str, int],
    ahead: Mapping[str, int] | None,
) -> str:
    before = (store.ahead_of([job.id]) if ahead is None else ahead).get(job.id, 0)
    trouble = _trouble(launchers)
    if before:
        return f"{before} ahead; {trouble}" if trouble else f"{before} ahead"
    if trouble:
        return f"next; {trouble}"
    limit = limits.get(job.key_id) if job.key_id else None
    if limit is not None and store.count_searches(states=OWNED, key_id=job.key_id) >= limit:
        return f"waiting for another one of the same key to end (its limit of {_searches(limit)})"
    working = [seen for seen in launchers if seen.works]
    slots = sum(seen.slots for seen in working)
    if sum(seen.taken for seen in working) >= slots:
        return f"waiting for a free slot (limit of {_searches(slots)})"
    return "next, a launcher has a free slot"


def _trouble(launchers: Sequence[Seen]) -> str | None:
    """Why no launcher starts anything, if that is so."""
    if not launchers:
        return "no launcher has been seen"
    working = [seen for seen in launchers if seen.works]
    if not working:
        return f"no launcher has been seen since {_moment(launchers[0].at)}"
    return None if any(seen.trouble is None for seen in working) else working[0].trouble


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _searches(count: int) -> str:
    return f"{count} running {'search' if count == 1 else 'searches'}"
