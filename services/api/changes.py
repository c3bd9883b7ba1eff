"""Looking at a search and changing it: entity tags say what a client has seen."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from automl_prune import strict
from automl_prune.errors import FieldError, PreconditionError, SpecError, StateConflictError
from automl_prune.loop.job import SearchJob
from automl_prune.loop.spec import Label, Name, Priority, field_errors
from services.api import etags, limits
from services.api.bodies import read_json
from services.api.context import Context, InContext, SearchId
from services.api.etags import IfMatch, IfNoneMatch
from services.api.openapi import body

MOST_LABELS = 32
_TRIES = 5
"""How often a change is tried when others change the same search at the same moment."""

router = APIRouter(prefix="/v1/searches", tags=["searches"])


class Change(BaseModel):
    """What may be changed about a search, as a JSON merge patch (RFC 7396)."""

    model_config = strict.STRICT

    name: Annotated[str, Field(max_length=200)] | None = Field(None, description="null takes the name away.")
    labels: dict[Name, Label | None] = Field({}, description="Added to those there are; null takes one away.")
    priority: Priority = 0


@router.get("/{search_id:id}", responses={304: {"description": "It is as the ETag says."}})
def get_search(search_id: SearchId, context: InContext, if_none_match: IfNoneMatch = None) -> Response:
    """One search: its state, how far it is, and the best it found so far next to its controls."""
    return shown(context, context.store.get_search(search_id), if_none_match)


@router.patch("/{search_id:id}", openapi_extra=body("Change"))
async def change_search(search_id: SearchId, context: InContext, request: Request, if_match: IfMatch = None) -> Response:
    """Change a search's name, labels or priority, by a JSON merge patch.

    With If-Match only if nobody changed the search itself in the meantime; that its trials went on is no hindrance. Without
    it, what is given is changed in any case.
    """
    change = read_change(await read_json(request, context.settings.max_body_bytes))
    return await to_thread.run_sync(_change, context, search_id, change, if_match)


def _change(context: Context, search_id: str, change: Change, if_match: str | None) -> Response:
    return shown(context, as_seen(context, search_id, if_match, lambda job: _changed(context, job, change)))


def as_seen(context: Context, search_id: str, if_match: str | None, change: Callable[[SearchJob], SearchJob]) -> SearchJob:
    """The search, changed; PreconditionError when it is not what If-Match says.

    ``change`` raises PreconditionError for a search that has changed since it was read; that is tried again.
    """
    for _ in range(_TRIES):
        job = context.store.get_search(search_id)
        # only the version: what follows it in a tag is about trials, which nobody changes
        if if_match is not None and not etags.matches(if_match, f'"{job.version}-'):
            raise PreconditionError(f"Search {job.id!r} is not what you saw any more; read it again.")
        with suppress(PreconditionError):
            return change(job)
    raise StateConflictError(f"Search {search_id!r} changes all the time; try again.")


def _changed(context: Context, job: SearchJob, change: Change) -> SearchJob:
    """The search with what is given changed; PreconditionError when it is not ``job`` any more."""
    given = change.model_fields_set
    if not given:
        return job
    if "priority" in given:
        limits.check_priority(change.priority, context.key_limits)
    return context.store.update_search(
        job.id,
        name=(change.name or "") if "name" in given else None,
        labels=_merged(job.labels, change.labels) if "labels" in given else None,
        priority=change.priority if "priority" in given else None,
        expected_version=job.version,
    )


def read_change(data: Any) -> Change:
    """What a body wants changed; raises SpecError."""
    if not isinstance(data, dict):
        raise SpecError([FieldError("", "A change is a JSON object.", "dict_type")])
    try:
        return strict.read(Change, data)
    except ValidationError as error:
        raise SpecError(field_errors(error)) from None


def shown(context: Context, job: SearchJob, if_none_match: str | None = None, *, status: int = 200) -> Response:
    """The search as JSON with its ETag; 304 to one who has just that."""
    response: Response = JSONResponse(context.search_json(job), status)
    tag = f'"{job.version}-{etags.digest(bytes(response.body))}"'  # all of it, as trials are no new version
    if if_none_match is not None and (if_none_match.strip() == etags.ANY or tag in etags.tags(if_none_match)):
        response = Response(status_code=304)
    response.headers["ETag"] = tag
    return response


def _merged(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {name: value for name, value in {**labels, **changes}.items() if value is not None}
    if len(merged) > MOST_LABELS:
        raise SpecError([FieldError("/labels", f"A search has at most {MOST_LABELS} labels.", "too_long")])
    return merged
