"""What a queued search waits for, in words; known only at the moment of asking."""

from collections.abc import Mapping
from types import MappingProxyType

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.rules import OWNED
from services.settings import Settings


def reason(
    job: SearchJob,
    store: Store,
    settings: Settings,
    limits: Mapping[str, int] = MappingProxyType({}),
    ahead: Mapping[str, int] | None = None,
) -> str | None:
    """Why a search is in its state; for a queued one what it waits for, and why it was queued again if it was.

    Args:
        job: The search.
        store: With what the one who asks may see.
        settings: Of the service.
        limits: Searches that an API key may have running at once, by its id, for those with such a limit.
        ahead: How many are claimed before each queued one; None: the store is asked.
    """
    if job.state is not SearchState.QUEUED:
        return job.state_reason
    waits = f"queued: {_waits_for(job, store, settings, limits, ahead)}"
    return f"{waits} ({job.state_reason})" if job.state_reason else waits


def _waits_for(
    job: SearchJob, store: Store, settings: Settings, limits: Mapping[str, int], ahead: Mapping[str, int] | None
) -> str:
    before = (store.ahead_of([job.id]) if ahead is None else ahead).get(job.id, 0)
    if before:
        return f"{before} ahead"
    limit = limits.get(job.key_id) if job.key_id else None
    if limit is not None and store.count_searches(states=OWNED, key_id=job.key_id) >= limit:
        return f"waiting for another one of the same key to end (its limit of {_searches(limit)})"
    if store.count_searches(states=OWNED) >= settings.max_running:
        return f"waiting for a free slot (limit of {_searches(settings.max_running)})"
    return "next, waiting for a launcher with a free slot"


def _searches(count: int) -> str:
    return f"{count} running {'search' if count == 1 else 'searches'}"
