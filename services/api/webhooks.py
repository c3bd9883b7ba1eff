"""Routes of webhooks: where a tenant wants its events sent."""

import asyncio
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from services.api.context import InContext
from services.api.etags import IfMatch
from services.api.openapi import body
from services.webhooks import guard, signing
from services.webhooks.exempt import of_tenant

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

LOOK_UP_SECONDS = 5.0
_LOOK_UPS = 4

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


class Addresses:
    """Checks the addresses of webhooks, looking up names in a few threads of its own: slow ones delay only each other.

    Args:
        hosts: Those that may be private, as the settings name them.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts
        # A look-up cannot be broken off: one that nobody waits for any more keeps its thread here until it ends.
        self._threads = ThreadPoolExecutor(_LOOK_UPS, "names")

    async def check(self, url: str, tenant: str) -> None:
        """Raise RefusedAddressError for what nothing is sent to, and for a name that is not looked up in time."""
        named = guard.read_url(url, of_tenant(self._hosts, tenant))
        if named is None:
            return
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                await asyncio.wrap_future(self._threads.submit(guard.check_name, *named))
        except TimeoutError:
            raise guard.RefusedAddressError(
                f"A webhook's address names a host, and {named[0][:80]!r} could not be looked up within "
                f"{LOOK_UP_SECONDS:g} seconds; check the name, or try again.",
                pointer="/url",
            ) from None


def _addresses(request: Request) -> Addresses:
    addresses: Addresses = request.app.state.addresses
    return addresses


def _webhooks(request: Request) -> Webhooks:
    webhooks: Webhooks = request.app.state.webhooks
    return webhooks


InAddresses = Annotated[Addresses, Depends(_addresses)]
InWebhooks = Annotated[Webhooks, Depends(_webhooks)]


@router.post("", status_code=201, openapi_extra=body("WebhookOrder"))
async def create_webhook(
    request: Request, response: Response, context: InContext, webhooks: InWebhooks, addresses: InAddresses
) -> dict[str, Any]:
    """Have events sent to an address from now on, signed as Standard Webhooks does; the secret is shown here only.

    Each event is sent at least once, one after the other; anything but 2xx is a failure, sent again for half a day, while
    later events pass it (the ``id`` tells their order). After 20 failures in a row the webhook is disabled,
    until ``:enable``.
    """
    order = read_order(await read_json(request, context.settings.max_body_bytes))
    tenant, kinds = context.principal.tenant, set(order.events)
    await addresses.check(order.url, tenant)
    secret = order.secret or signing.new_secret()
    create = partial(webhooks.create, origin=context.origin)
    made = await to_thread.run_sync(create, tenant, order.url, secret, kinds)
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    response.headers["ETag"] = tag_of(made)
    return {**shown(made), "secret": secret}


@router.get("")
def list_webhooks(context: InContext, webhooks: InWebhooks) -> dict[str, Any]:
    """Where events are sent, and how that goes; without the secrets."""
    return {"items": [shown(webhook) for webhook in webhooks.known(context.principal.tenant)], "next_page_token": None}


@router.post("/{webhook_id:id}:enable")
def enable_webhook(webhook_id: str, context: InContext, webhooks: InWebhooks) -> dict[str, Any]:
    """Let a webhook that was disabled go on, with no failures: from where it stopped, so that no event is missing.

    Of what happened since, all is sent that the service still keeps; whoever wants only what comes makes a new webhook
    instead. One that is not disabled stays as it is.
    """
    return shown(webhooks.enable(webhook_id, context.principal.tenant, origin=context.origin))


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
