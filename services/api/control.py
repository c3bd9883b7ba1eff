"""Routes that act on a search: pause it, let it go on."""

from typing import Any

from fastapi import APIRouter

from services.api.context import InContext, SearchId

router = APIRouter(prefix="/v1", tags=["searches"])


@router.post("/searches/{search_id:id}:pause", status_code=202)
def pause(search_id: SearchId, context: InContext) -> dict[str, Any]:
    """Let a search rest: at once while it is queued, else after the trials in flight. 409 when it has ended."""
    return context.search_json(context.store.request_pause(search_id))


@router.post("/searches/{search_id:id}:resume", status_code=202)
def resume(search_id: SearchId, context: InContext) -> dict[str, Any]:
    """Queue a paused search again; it goes on where it was. 409 when it is not paused, nor about to be."""
    return context.search_json(context.store.request_resume(search_id))
