"""Signatures of deliveries, as https://www.standardwebhooks.com describes them, so that its libraries can check them."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

_PREFIX = "whsec_"


def new_secret() -> str:
    """A secret nobody can guess."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(secret: str, delivery_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """What goes with a delivery: its id, the same each time it is sent; when (Unix seconds); HMAC-SHA256 over all of it."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _key(secret: str) -> bytes:
    """``whsec_`` is followed by base64; any other secret is its own UTF-8."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except ValueError:
            pass
    return secret.encode()
