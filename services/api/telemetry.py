"""One log line and one count per request."""

import logging
import re
import time
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import logs
from services.api.headers import request_id

log = logging.getLogger("automl_prune.requests")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_GONE = 499
"""Status of a request whose client left before there was an answer, as proxies write it."""


class RequestMetrics:
    """Requests by method, route and status; a route is its pattern, never the path that came."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("method", "route", "status")
        self._count = Counter("automl_prune_http_requests", "Requests answered.", names, registry=registry)
        self._seconds = Histogram(
            "automl_prune_http_request_seconds",
            "Time until an answer began.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in _METHODS else "other"
        self._count.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)


class Telemetry:
    """Middleware that counts requests and writes a line about each; stands inside of what gives them their id."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        answered: dict[str, Any] = {}

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.update(status=message["status"], seconds=time.perf_counter() - started)
            await send(message)

        with logs.about(request_id=request_id(scope)):
            try:
                await self.app(scope, receive, send_noting)
            except Exception:
                answered.setdefault("status", 500)
                raise
            finally:
                self._note(scope, answered, time.perf_counter() - started)

    def _note(self, scope: Scope, answered: dict[str, Any], seconds: float) -> None:
        method, status, route = scope["method"], answered.get("status", _GONE), route_of(scope)
        self._metrics.note(method, route, status, answered.get("seconds", seconds))
        log.log(
            logging.DEBUG if route in _PROBES else logging.INFO,
            "%s %s %d",
            method,
            scope["path"][:200],
            status,
            extra={"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1), **_subject(scope)},
        )


def route_of(scope: Scope) -> str:
    """The pattern of the route that answered; ``none`` for a path that has no route."""
    if scope["path"].startswith("/web/"):
        return "/web"
    return _readable(str(getattr(scope.get("route"), "path", "none")))


@lru_cache(maxsize=256)
def _readable(pattern: str) -> str:
    """``/v1/searches/{search_id}`` for ``/v1/searches/{search_id:id}``."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", pattern)


def _subject(scope: Scope) -> dict[str, Any]:
    search_id = scope.get("path_params", {}).get("search_id")
    return {"search_id": search_id} if search_id else {}
