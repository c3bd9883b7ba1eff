"""Routes of webhooks: where a tenant wants its events sent."""

import json
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, ValidationError

from automl_prune import strict
from automl_prune.errors import FieldError, PreconditionError, SpecError
from automl_prune.loop.spec import field_errors
from automl_prune.storage.webhooks import KINDS, Webhook, Webhooks
from services.api import etags
from services.api.bodies import read_json
from services.api.context import Context, InContext
from services.api.etags import IfMatch
from services.api.openapi import body
from services.webhooks import guard, signing

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Kind = Literal["search.state", "trial.started", "trial.completed", "best.updated", "end"]


class WebhookOrder(BaseModel):
    """Where events are to be sent."""

    model_config = strict.STRICT

    url: Annotated[str, Field(min_length=1, max_length=2000)] = Field(description="https, and nowhere private.")
    events: Annotated[list[Kind], Field(min_length=1, max_length=len(KINDS))] = Field(
        default_factory=lambda: list[Kind](("search.state", "best.updated", "end")), description="Which kinds."
    )
    secret: Annotated[str, Field(min_length=16, max_length=200)] | None = Field(
        None, description="What deliveries are signed with; never shown again. Left out, one is made."
    )


def _webhooks(request: Request) -> Webhooks:
    webhooks: Webhooks = request.app.state.webhooks
    return webhooks


InWebhooks = Annotated[Webhooks, Depends(_webhooks)]


@router.post("", status_code=201, openapi_extra=body("WebhookOrder"))
async def create_webhook(request: Request, response: Response, context: InContext, webhooks: InWebhooks) -> dict[str, Any]:
    """Have events sent to an address from now on, signed as Standard Webhooks does; the secret is shown here only.

    Each event is sent at least once, in no certain order (its ``id`` tells); anything but 2xx is a failure, sent again for
    half a day. After 20 failures in a row the webhook is disabled.
    """
    order = read_order(await read_json(request, context.settings.max_body_bytes))
    made, secret = await to_thread.run_sync(_create, webhooks, order, context)
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    response.headers["ETag"] = tag_of(made)
    return {**shown(made), "secret": secret}


def _create(webhooks: Webhooks, order: WebhookOrder, context: Context) -> tuple[Webhook, str]:
    guard.check_url(order.url, context.settings.webhook_hosts)
    secret = order.secret or signing.new_secret()
    made = webhooks.create(context.principal.tenant, order.url, secret, set(order.events), origin=context.origin)
    return made, secret


@router.get("")
def list_webhooks(context: InContext, webhooks: InWebhooks) -> dict[str, Any]:
    """Where events are sent, and how that goes; without the secrets."""
    return {"items": [shown(webhook) for webhook in webhooks.known(context.principal.tenant)], "next_page_token": None}


@router.get("/{webhook_id:id}")
def get_webhook(webhook_id: str, response: Response, context: InContext, webhooks: InWebhooks) -> dict[str, Any]:
    """One webhook, without its secret; its ETag is what its deletion may be made to depend on."""
    webhook = webhooks.get(webhook_id, context.principal.tenant)
    response.headers["ETag"] = tag_of(webhook)
    return shown(webhook)


@router.delete("/{webhook_id:id}", status_code=204)
def delete_webhook(webhook_id: str, context: InContext, webhooks: InWebhooks, if_match: IfMatch = None) -> None:
    """Send nothing more there. With If-Match only if the webhook is as it was seen, but for its failures."""
    tenant, seen = context.principal.tenant, None
    if if_match is not None and if_match.strip() != etags.ANY:
        seen = webhooks.get(webhook_id, tenant)
        if not etags.matches(if_match, _beginning(seen)):
            raise PreconditionError(f"Webhook {webhook_id!r} is not what you saw any more; read it again.")
    webhooks.remove(webhook_id, tenant, expected=seen, origin=context.origin)


def read_order(data: Any) -> WebhookOrder:
    """What a body asks for; raises SpecError."""
    if not isinstance(data, dict):
        raise SpecError([FieldError("", "A webhook is a JSON object.", "dict_type")])
    try:
        return strict.read(WebhookOrder, data)
    except ValidationError as error:
        # Not what came: it may be the secret.
        raise SpecError(
            [FieldError(e.pointer, e.detail.partition(" (came: ")[0], e.code) for e in field_errors(error)]
        ) from None


def tag_of(webhook: Webhook) -> str:
    """The webhook's ETag."""
    return f'{_beginning(webhook)}{webhook.failures}"'


def _beginning(webhook: Webhook) -> str:
    """What its ETag begins with; what follows is how its deliveries go, which nobody changes."""
    lasting = {name: value for name, value in shown(webhook).items() if name != "failures"}
    return f'"{etags.digest(json.dumps(lasting).encode())}-'


def shown(webhook: Webhook) -> dict[str, Any]:
    """A webhook as JSON."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.kinds),
        "created_at": webhook.created_at.isoformat(),
        "disabled_at": webhook.disabled_at.isoformat() if webhook.disabled_at else None,
        "failures": webhook.failures,
    }
