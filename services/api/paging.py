"""Pages of a list: an opaque token says where the last one ended."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from automl_prune.errors import UserError

MAX_LIMIT = 200

T = TypeVar("T")


def page(found: Sequence[T], limit: int, view: Callable[[T], Any], position: Callable[[T], str | int]) -> dict[str, Any]:
    """A page of at most ``limit`` of the items found; one more found than fits means that there is a next page."""
    items = found[:limit]
    more = len(found) > limit
    return {"items": [view(item) for item in items], "next_page_token": _token(position(items[-1])) if more else None}


def read_search_token(token: str | None) -> str | None:
    """The search id where the previous page ended."""
    return None if token is None else _position(token, r"[A-Za-z0-9_-]{1,64}")


def read_trial_token(token: str | None) -> int:
    """The trial number where the previous page ended, -1 for the first page."""
    return -1 if token is None else int(_position(token, r"[0-9]{1,9}"))


def _token(position: str | int) -> str:
    return urlsafe_b64encode(f"after:{position}".encode()).decode().rstrip("=")


def _position(token: str, pattern: str) -> str:
    try:
        text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError:
        text = ""
    if match := re.fullmatch(f"after:({pattern})", text):
        return match[1]
    raise UserError(
        "page_token is not one of this list's; leave it out to start over, or pass on a next_page_token unchanged.",
        pointer="/query/page_token",
    )
