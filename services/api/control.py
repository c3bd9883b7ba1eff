"""Routes that act on a search: stop it, pause it, let it go on."""

from collections.abc import Callable

from fastapi import APIRouter, Response

from automl_prune.loop.job import SearchJob
from services.api.changes import as_seen, shown
from services.api.context import Context, InContext, SearchId
from services.api.etags import IfMatch

router = APIRouter(prefix="/v1", tags=["searches"])


@router.post("/searches/{search_id:id}:cancel", status_code=202)
def cancel(search_id: SearchId, context: InContext, if_match: IfMatch = None) -> Response:
    """Stop a search: at once while it is queued, else as soon as its driver notices."""
    return _asked(context, search_id, if_match, context.store.request_cancel)


@router.post("/searches/{search_id:id}:pause", status_code=202)
def pause(search_id: SearchId, context: InContext, if_match: IfMatch = None) -> Response:
    """Let a search rest: at once while it is queued, else after the trials in flight. 409 when it has ended."""
    return _asked(context, search_id, if_match, context.store.request_pause)


@router.post("/searches/{search_id:id}:resume", status_code=202)
def resume(search_id: SearchId, context: InContext, if_match: IfMatch = None) -> Response:
    """Queue a paused search again; it goes on where it was. 409 when it is not paused, nor about to be."""
    return _asked(context, search_id, if_match, context.store.request_resume)


def _asked(context: Context, search_id: str, if_match: str | None, request: Callable[..., SearchJob]) -> Response:
    if if_match is None:
        return shown(context, request(search_id), status=202)
    job = as_seen(context, search_id, if_match, lambda seen: request(seen.id, expected_version=seen.version))
    return shown(context, job, status=202)
