"""Who changed what: where a change comes from, and the entry that is kept of it for good."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Action(StrEnum):
    """What is noted when it is done; what is refused, or changes nothing, is not."""

    ORDER = "search.order"
    CHANGE = "search.change"
    CANCEL = "search.cancel"
    PAUSE = "search.pause"
    RESUME = "search.resume"
    CREATE_WEBHOOK = "webhook.create"
    ENABLE_WEBHOOK = "webhook.enable"
    REMOVE_WEBHOOK = "webhook.remove"
    CREATE_KEY = "key.create"
    REVOKE_KEY = "key.revoke"
    REGISTER_DEVICE = "device.register"
    REMOVE_DEVICE = "device.remove"


@dataclass(frozen=True)
class Origin:
    """Where a change comes from: the API key, the address and the id of the request; None: there was none."""

    key_id: str | None = None
    ip: str | None = None
    request_id: str | None = None


HERE = Origin()
"""A change that no request made: a command on the service's own machine, or a program that holds the store itself."""


@dataclass(frozen=True)
class AuditEntry:
    """A change that was made.

    Attributes:
        id: Later entries have greater ones.
        object_id: The search, webhook, key or device (by its name) that was changed.
        result: What is true of it since: a search's state or what was asked of it, a key's scopes …
        origin: Who did it.
    """

    id: str
    tenant: str
    action: Action
    object_id: str
    result: str
    at: datetime
    origin: Origin
