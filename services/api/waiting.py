"""What a queued search waits for, in words; known only at the moment of asking."""

from collections.abc import Mapping

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.rules import OWNED
from services.settings import Settings


def reason(
    job: SearchJob, store: Store, settings: Settings, limit: int | None = None, ahead: Mapping[str, int] | None = None
) -> str | None:
    """Why a search is in its state; for a queued one what it waits for, and why it was queued again if it was.

    Args:
        job: The search.
        store: With what the one who asks may see.
        settings: Of the service.
        limit: Searches that the one who asks may have running at once.
        ahead: How many are claimed before each queued one; None: the store is asked.
    """
    if job.state is not SearchState.QUEUED:
        return job.state_reason
    waits = f"queued: {_waits_for(job, store, settings, limit, ahead)}"
    return f"{waits} ({job.state_reason})" if job.state_reason else waits


def _waits_for(job: SearchJob, store: Store, settings: Settings, limit: int | None, ahead: Mapping[str, int] | None) -> str:
    before = (store.ahead_of([job.id]) if ahead is None else ahead).get(job.id, 0)
    if before:
        return f"{before} ahead"
    running = store.count_searches(states=OWNED)
    if limit is not None and running >= limit:
        return f"waiting for one of yours to end (your limit of {_searches(limit)})"
    if running >= settings.max_running:
        return f"waiting for a free slot (limit of {_searches(settings.max_running)})"
    return "next, waiting for a launcher with a free slot"


def _searches(count: int) -> str:
    return f"{count} running {'search' if count == 1 else 'searches'}"
