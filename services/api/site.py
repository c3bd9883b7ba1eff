"""Routes that are not about searches: listings, the version, the page."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from automl_prune.plugins import plugins
from services.api.context import InContext, SearchId

WEB = Path(__file__).parents[1] / "web"

router = APIRouter()


@router.get("/v1/strategies", tags=["names"])
def list_strategies(context: InContext) -> Any:
    """Strategies with their options (JSON schema), presets, published recipe and paper."""
    return context.catalog["strategies"]


@router.get("/v1/search-spaces", tags=["names"])
def list_search_spaces(context: InContext) -> Any:
    """Networks that can be searched by name, with the presets their authors declare."""
    return context.catalog["search-spaces"]


@router.get("/v1/criteria", tags=["names"])
def list_criteria(context: InContext) -> Any:
    """Criteria that rank channels."""
    return context.catalog["criteria"]


@router.get("/v1/datasets", tags=["names"])
def list_datasets(context: InContext) -> Any:
    """Datasets that candidates can be scored on."""
    return context.catalog["datasets"]


@router.get("/v1/plugins", tags=["names"])
async def list_plugins() -> Any:
    """Plug-ins of this server: where each was found, and why one is left out."""
    return {"items": [asdict(plugin) for plugin in plugins()], "next_page_token": None}


@router.get("/version", tags=["probes"])
async def get_version() -> dict[str, str]:
    """What runs here."""
    libraries = {name: version(name) for name in ("torch", "ray", "fastapi", "sqlalchemy")}
    return {"version": version("automl-prune"), "api": "v1", "python": platform.python_version(), **libraries}


@router.get("/", include_in_schema=False)
async def index() -> FileResponse:
    """The page that lists searches."""
    return FileResponse(WEB / "index.html")


@router.get("/searches/{search_id:id}", include_in_schema=False)
async def search_page(search_id: SearchId) -> FileResponse:
    """The page of one search: the same file, which reads the id from its own address."""
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
async def docs(context: InContext) -> FileResponse:
    """The page that shows /openapi.json."""
    if not context.settings.docs:
        raise HTTPException(404)
    return FileResponse(WEB / "docs.html")
