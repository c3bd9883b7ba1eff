"""Routes of a search's trials, attempts and files."""

import base64
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from automl_prune.errors import NotFoundError
from automl_prune.loop.job import Artifact
from automl_prune.trial import TrialState
from services.api import views
from services.api.context import InContext, Limit, PageToken, SearchId, Text
from services.api.paging import page, read_trial_token

router = APIRouter(prefix="/v1/searches/{search_id:id}", tags=["trials and files"])


@router.get("/trials")
def list_trials(
    search_id: SearchId,
    context: InContext,
    state: TrialState | None = None,
    arm: Text = None,
    winner: Annotated[
        bool, Query(description="true: only the winners that others were built on, as info.family has them.")
    ] = False,
    limit: Limit = 50,
    page_token: PageToken = None,
) -> dict[str, Any]:
    """A search's trials in order of number."""
    job = context.store.get_search(search_id)
    numbers = views.family(job) if winner else None
    after = read_trial_token(page_token)
    found = context.store.trials(search_id, arm=arm, state=state, numbers=numbers, limit=limit + 1, after=after)
    return page(found, limit, lambda t: views.trial(t, job), lambda t: t.trial.number)


@router.get("/trials/{number:number}")
def get_trial(search_id: SearchId, number: int, context: InContext) -> dict[str, Any]:
    """One trial."""
    return views.trial(context.store.trial(search_id, number), context.store.get_search(search_id))


@router.get("/attempts")
def list_attempts(search_id: SearchId, context: InContext) -> dict[str, Any]:
    """Every time a driver took the search up, oldest first: who it was, and why it ended; lost, when the driver was."""
    return {"items": [views.attempt(one) for one in context.store.attempts(search_id)], "next_page_token": None}


@router.get("/artifacts")
def list_artifacts(search_id: SearchId, context: InContext) -> dict[str, Any]:
    """A search's files: name, size in bytes, SHA-256, and where to fetch them."""
    job = context.store.get_search(search_id)
    found = context.store.artifacts(search_id)
    return {"items": [views.artifact(a, job, context.settings.public_url) for a in found], "next_page_token": None}


@router.get("/artifacts/{name}", response_class=FileResponse)
def get_artifact(search_id: SearchId, name: str, context: InContext) -> FileResponse:
    """Download one file; the Repr-Digest header holds its SHA-256."""
    job = context.store.get_search(search_id)
    recorded = next((a for a in context.store.artifacts(job.id) if a.name == name), None)
    if recorded is None:
        raise NotFoundError(f"Search {job.id!r} has no such file; GET …/artifacts lists those it has.")
    digest = base64.b64encode(bytes.fromhex(recorded.sha256)).decode()
    return FileResponse(
        _path(context.settings.artifacts_root, job.id, recorded),
        media_type="application/octet-stream",
        filename=recorded.name,
        headers={"ETag": f'"{recorded.sha256}"', "Repr-Digest": f"sha-256=:{digest}:"},
    )


def _path(root: Path, search_id: str, artifact: Artifact) -> Path:
    folder = (root / search_id).resolve()
    path = (folder / artifact.name).resolve()
    # The name comes from our own records, but a link below the folder may still lead out of it.
    if not folder.is_relative_to(root.resolve()) or not path.is_relative_to(folder) or not path.is_file():
        raise NotFoundError(f"{artifact.name!r} of search {search_id!r} is recorded, but its file is gone.")
    return path
