"""Who is asking: every path but a few takes an API key, as soon as there is one or strangers can reach the service.

The gate stands before the routes and decides by path and method alone, so that a route that forgets to ask is closed too.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from automl_prune.loop.audit import Origin
from automl_prune.loop.job import DEFAULT_TENANT
from automl_prune.storage.keys import ApiKey, ApiKeys
from automl_prune.storage.keys import Scope as May
from services.api.headers import known_host, passed_on, request_id, same_site
from services.api.problems import RequestError, answer, problem_of
from services.settings import Settings

PROBES = frozenset({"/healthz", "/readyz"})
"""Paths that answer anybody under any name, whether or not the database does."""
OPEN = frozenset({"/version", "/", "/docs"})
"""Paths that take no key, besides the page's files and addresses: they tell nothing about anybody's searches."""
_PAGE = re.compile(r"/web/.*|/searches/[A-Za-z0-9_-]{1,64}")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_AT_ONCE = 40
"""Keys that are looked up at the same time; not in the threads of routes, of which all may be taken."""
_REALM = 'Bearer realm="automl-prune"'


@dataclass(frozen=True)
class Principal:
    """Who asks, and for whom; without a key the only user of a service that nobody else can reach."""

    tenant: str = DEFAULT_TENANT
    key: ApiKey | None = None


ANYBODY = Principal()


class Door:
    """Decides who gets in.

    Args:
        keys: Of this service.
        settings: Where it listens.
    """

    def __init__(self, keys: ApiKeys, settings: Settings) -> None:
        self._keys, self._settings = keys, settings

    def admit(self, method: str, path: str, headers: Headers, version: str = "1.1") -> Principal:
        """Who is asking; raises RequestError for a key that is missing, unknown or not allowed this, or another site.

        ``version`` is HTTP's: without keys a request that somebody passed on is refused, too.
        """
        needs_key = self._needs_key()
        if not needs_key and passed_on(headers, version):
            raise RequestError(
                403,
                "passed_on",
                "This came through a proxy, and without an API key everybody behind it would get in: make one, with "
                "'automl-prune keys create NAME', or talk to the service directly.",
            )
        self._check_site(method, headers, by_key=needs_key)
        if not needs_key or path in OPEN or _PAGE.fullmatch(path):
            return ANYBODY
        token = _token(headers)
        if token is None:
            detail = "This service takes an API key: send 'Authorization: Bearer KEY'; 'automl-prune keys create' makes one."
            raise RequestError(401, "key_missing", detail, headers={"WWW-Authenticate": _REALM})
        key = self._keys.find(token)
        if key is None:
            challenge = f'{_REALM}, error="invalid_token"'
            detail = "This API key is unknown, expired or revoked."
            raise RequestError(401, "key_invalid", detail, headers={"WWW-Authenticate": challenge})
        scope = scope_of(method, path)
        if not key.allows(scope):
            challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
            detail = f"This takes a key with the scope {scope}; this one has {', '.join(sorted(key.scopes))}."
            raise RequestError(403, "scope_missing", detail, headers={"WWW-Authenticate": challenge})
        return Principal(key.tenant, key)

    def still_admits(self, key_ids: Collection[str]) -> set[str]:
        """Those of these keys that let one in now; an empty id stands for no key."""
        return self._keys.valid(key_ids) | (set() if self._needs_key() else {""})

    def _needs_key(self) -> bool:
        return self._settings.beyond_this_machine or self._keys.exist()

    def _check_site(self, method: str, headers: Headers, *, by_key: bool) -> None:
        """Without keys, whatever a browser here sends is obeyed: only our own pages may make it do so.

        With keys that harms nobody, as no browser adds them by itself; a name is then only checked where one is configured.
        """
        origin, host, public = headers.get("origin"), headers.get("host", ""), self._settings.public_url
        if (not by_key or public is not None) and not known_host(host, public):
            detail = "This service answers to this machine's own names; AUTOML_PRUNE_PUBLIC_URL gives it another one."
            raise RequestError(421, "misdirected_request", detail)
        if method not in _READING and not same_site(origin, host, public):
            raise RequestError(403, "cross_origin", "Pages of other sites cannot change anything here.")


class Gate:
    """Middleware that lets a request through with its principal in ``scope["state"]``, or answers it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self._door = app, door
        self._threads = CapacityLimiter(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._admit(scope)
        except Exception as error:  # a refusal, or a database that is away
            if problem_of(error).status == 500:  # answered, and logged with its traceback, like one of a route
                raise
            response = await answer(Request(scope), error)
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Principal:
        if scope["path"] in PROBES:  # whatever holds up the others
            return ANYBODY
        asked = scope["method"], scope["path"], Headers(scope=scope), scope.get("http_version", "1.1")
        return await to_thread.run_sync(self._door.admit, *asked, limiter=self._threads)


def principal_of(request: Request) -> Principal:
    """Who sent the request."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


def origin_of(request: Request) -> Origin:
    """Where the changes that a request makes come from."""
    key = principal_of(request).key
    return Origin(
        key_id=key.id if key else None,
        ip=request.client.host if request.client else None,
        request_id=request_id(request.scope),
    )


def scope_of(method: str, path: str) -> May:
    """What a key must be allowed for this call."""
    if path == "/metrics":
        return May.METRICS
    if path.startswith(("/v1/api-keys", "/v1/audit")):
        return May.ADMIN
    if method in _READING:
        return May.READ
    return May.DEVICES if path.startswith("/v1/devices") else May.WRITE


def _token(headers: Headers) -> str | None:
    """The token of ``Authorization: Bearer`` or ``X-API-Key``."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key")
