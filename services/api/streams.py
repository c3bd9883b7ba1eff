"""The route of a search's events, as server-sent events."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import BrokenResourceError, to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from automl_prune.errors import UserError
from services.api import openapi
from services.api.context import InContext, SearchId
from services.api.feed import Feed, Listener

LATEST = "latest"

router = APIRouter(prefix="/v1/searches/{search_id:id}", tags=["searches"])

_PLACE = {"pattern": f"^([0-9]{{0,18}}|{LATEST})$"}

LastEventId = Annotated[
    str | None,
    Header(description="The id of the last event that arrived; those after it follow.", json_schema_extra=_PLACE),
]
LastEventIdQuery = Annotated[
    str | None,
    Query(
        alias="last_event_id",
        json_schema_extra=_PLACE,
        description="The same, for clients that cannot set headers; 'latest' tells of what is yet to come.",
    ),
]


class Leavers:
    """Middleware that takes it for no failure when a listener leaves just as something is sent to it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self.app(scope, receive, send)
        except* BrokenResourceError:  # of the queue between a stream and FastAPI's comments that keep it alive
            pass


class NothingMoreError(Exception):
    """The search has ended, and there is no event that the listener does not know."""


def answer_nothing_more(request: Request, error: Exception) -> Response:
    """204, which is what makes an EventSource stop coming back."""
    return Response(status_code=204)


def _feed(request: Request) -> Feed:
    feed: Feed = request.app.state.feed
    return feed


InFeed = Annotated[Feed, Depends(_feed)]


async def _listener(
    search_id: SearchId,
    context: InContext,
    feed: InFeed,
    last_event_id: LastEventId = None,
    from_query: LastEventIdQuery = None,
) -> AsyncIterator[Listener]:
    job = await to_thread.run_sync(context.store.get_search, search_id)
    place = last_event_id or from_query or None
    after = await to_thread.run_sync(feed.watcher.last, search_id) if place == LATEST else _number(place)
    if job.state.is_terminal and not await to_thread.run_sync(lambda: context.store.events(job.id, after=after, limit=1)):
        raise NothingMoreError
    with feed.listening(search_id, context.principal.key.id if context.principal.key else "", after) as listener:
        yield listener


class EventStream(StreamingResponse):
    """Server-sent events, which nobody on the way may keep."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], status_code: int = 200) -> None:
        super().__init__(content, status_code, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


@router.get("/events", response_class=EventStream, responses={200: openapi.EVENT_STREAM, 204: openapi.NO_MORE})
async def stream_events(listener: Annotated[Listener, Depends(_listener)], feed: InFeed) -> EventStream:
    """What happens to a search, as server-sent events: search.state, trial.started, trial.completed, best.updated, end.

    From the search's beginning, or from behind Last-Event-ID; the stream closes after ``end``, and with ``shutdown`` when
    the server stops: come back then. It closes without either once the key is revoked or has expired, within a minute. Old
    events are not kept for ever: where some that should follow are gone, the first event is a ``reset``, which says so.
    Read the search anew then; what follows is complete again. 204 to one who knows of the end.
    """
    return EventStream(feed.stream(listener))


def _number(place: str | None) -> int:
    if place is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", place):
        raise UserError("Last-Event-ID is the id of an event, a number.", pointer="/header/last-event-id")
    return int(place)
