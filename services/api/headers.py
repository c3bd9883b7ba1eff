"""What every response carries: a request id, and headers that keep browsers from doing anything unexpected."""

import re
import uuid
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.settings import LOOPBACK

REQUEST_ID = "X-Request-ID"
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Automl-Prune-Api": "v1",  # by which clients know that it was this service which answered
}
_PROXIES = frozenset({"forwarded", "via", "x-real-ip"})
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """Middleware that gives each request an id (the caller's, if it is a sane one) and each response its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came = Headers(scope=scope).get(REQUEST_ID, "")
        scope.setdefault("state", {})["request_id"] = came if _ACCEPTED_ID.fullmatch(came) else uuid.uuid4().hex

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**SECURITY, REQUEST_ID: request_id(scope)}.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/v1/") else "no-cache")
            await send(message)

        await self.app(scope, receive, send_with_headers)


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The id of the request that ``scope`` belongs to."""
    return str(scope.get("state", {}).get("request_id", ""))


def same_site(origin: str | None, host: str, public_url: str | None) -> bool:
    """Whether a request with this ``Origin`` header was sent by our own page, or by no browser at all."""
    if origin is None:
        return True
    ours = {host, urlsplit(public_url).netloc if public_url else host}
    try:
        return urlsplit(origin).netloc in ours
    except ValueError:  # no URL at all
        return False


def passed_on(headers: Headers, version: str) -> bool:
    """Whether a request shows that a proxy passed it on: by what it adds, or by HTTP/1.0, which nginx speaks by default.

    One that shows neither cannot be told from a program of this machine.
    """
    return version == "1.0" or any(name in _PROXIES or name.startswith("x-forwarded-") for name in headers)


def known_host(host: str, public_url: str | None) -> bool:
    """Whether ``Host`` names this machine or the public address.

    Another name means that somebody's domain was pointed here, and that its pages pass for ours in a browser.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in LOOPBACK or (public_url is not None and host == urlsplit(public_url).netloc)
