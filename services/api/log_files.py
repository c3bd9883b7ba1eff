"""A search's own log: what its driver wrote, in pieces."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse

from services.api.context import InContext, SearchId
from services.database import database_host
from services.folders import LONGEST, veiled

NAME = "search.log"
MAX_BYTES = 1 << 20

router = APIRouter(prefix="/v1/searches/{search_id:id}", tags=["trials and files"])

From = Annotated[int | None, Query(ge=0, le=1 << 53, description="First byte; without it, the log's end is shown.")]
Most = Annotated[int, Query(ge=1, le=MAX_BYTES, description="Most bytes of an answer.")]


@router.get("/logs", response_class=PlainTextResponse)
def get_log(search_id: SearchId, context: InContext, offset: From = None, limit: Most = 65_536) -> Response:
    """What the search's driver logged: the last ``limit`` bytes in whole lines, or those from ``offset`` on.

    Log-Offset says where the text begins, Log-Next-Offset where the next piece does (ask again later to follow a running
    search), Log-Size how long the log is now. Empty before the first driver started. Places on the server are veiled.
    """
    job, settings = context.store.get_search(search_id), context.settings
    veil = partial(veiled, settings=settings, host=database_host(settings))
    text, start, size = read(settings.artifacts_root / job.id / NAME, offset, limit, veil)
    headers = {"Log-Offset": str(start), "Log-Next-Offset": str(start + len(text)), "Log-Size": str(size)}
    return Response(text, headers=headers, media_type="text/plain; charset=utf-8")


def read(path: Path, offset: int | None, limit: int, veil: Callable[[bytes], bytes]) -> tuple[bytes, int, int]:
    """At most ``limit`` bytes of a growing file, where they begin, and how long the file is; the end if no offset is given.

    ``veil`` changes some of the bytes, and neither how many there are nor where they are; it also sees those around them.

    The end begins with a whole line, and every piece ends with one, unless a line is longer than the limit.
    """
    if not path.is_file() or path.is_symlink():
        return b"", 0, 0
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - limit) if offset is None else min(offset, size)
        before, length = min(start, LONGEST), min(limit, size - start)
        file.seek(start - before)
        text = veil(file.read(before + length + LONGEST))[before : before + length]
    if offset is None and start > 0:
        cut = text.find(b"\n") + 1
        text, start = text[cut:], start + cut
    if offset is not None and (cut := text.rfind(b"\n") + 1):
        text = text[:cut]
    return text, start, size
