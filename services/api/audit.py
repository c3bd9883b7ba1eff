"""The route of the audit trail: who changed what."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.api import views
from services.api.context import NO_NUL, InContext, Limit, PageToken
from services.api.paging import page, read_search_token

router = APIRouter(prefix="/v1/audit", tags=["audit"])

ObjectId = Annotated[
    str | None,
    Query(
        min_length=1, max_length=200, pattern=NO_NUL, description="Only of this search, webhook, key or device (its name)."
    ),
]


@router.get("")
def list_changes(
    context: InContext,
    object: ObjectId = None,
    limit: Limit = 50,
    page_token: PageToken = None,
) -> dict[str, Any]:
    """Who changed what, newest first: orders, changes and requests of searches, webhooks, keys and devices.

    Each names the API key, the address and the request it came with; where these are null, a command on the service's own
    machine did it. What was refused, or changed nothing, is not listed. Takes a key with the scope admin.
    """
    before = read_search_token(page_token)
    found = context.store.audit(object_id=object, limit=limit + 1, before=before)
    return page(found, limit, views.audit_entry, lambda entry: entry.id)
