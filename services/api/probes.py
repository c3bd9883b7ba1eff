"""Probes of those who watch the service, in threads of their own: they answer whatever else it is busy with."""

from anyio import to_thread
from fastapi import APIRouter, Request

from services.api.context import InContext

AT_ONCE = 4

router = APIRouter(tags=["probes"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers; touches nothing else."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(context: InContext, request: Request) -> dict[str, str]:
    """Whether the store answers; 503 when it does not."""
    await to_thread.run_sync(lambda: context.store.list_searches(limit=1), limiter=request.app.state.probe_threads)
    return {"status": "ready"}
