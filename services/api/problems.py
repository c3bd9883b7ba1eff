"""Errors on the wire: RFC 9457 problem details, whatever went wrong, and never what came in or a traceback."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from automl_prune.errors import (
    FieldError,
    IdempotencyError,
    LeaseLostError,
    NotFoundError,
    PreconditionError,
    QueueFullError,
    SpecError,
    StateConflictError,
    UserError,
)
from services.api.headers import REQUEST_ID, SECURITY, request_id
from services.folders import without_places
from services.settings import Settings

log = logging.getLogger(__name__)

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MOST_ERRORS, _LONGEST_DETAIL, _LONGEST_POINTER = 100, 2000, 300


class RequestError(Exception):
    """A request that is wrong as HTTP or as JSON, before anybody looks at what it asks for."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        pointer: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.pointer = status, code, pointer
        self.headers = dict(headers or {}) | ({"Retry-After": str(retry_after)} if retry_after is not None else {})


@dataclass(frozen=True)
class Problem:
    """One answer that is not a success; ``errors`` names the fields that are at fault, where some are."""

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


# The one place where an error class becomes a status; first match wins, whatever is not here is a 500.
STATUS: Sequence[tuple[type[Exception], int]] = (
    (UserError, 422),
    (IdempotencyError, 422),
    (PreconditionError, 412),
    (NotFoundError, 404),
    (StateConflictError, 409),
    (LeaseLostError, 409),
    (QueueFullError, 429),
)
RETRY_SECONDS = 60
"""After how long it is worth asking again when there was too much."""
STORE_ERRORS = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.ProgrammingError,  # PostgreSQL's of a table that is not there; SQLite's is an OperationalError
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
)
TITLES = {
    400: "The request cannot be read",
    401: "The request needs a key",
    403: "The request is not allowed",
    404: "There is no such thing",
    405: "The method is not allowed here",
    409: "The present state does not allow this",
    412: "It was changed in the meantime",
    413: "The body is too large",
    415: "The body is of the wrong type",
    416: "The file has no such part",
    421: "The service does not go by this name",
    422: "What was sent cannot be done",
    429: "Too much at once",
    500: "The service failed",
    503: "The service is not available right now",
}


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` as a problem."""
    handled = (RequestError, HTTPException, RequestValidationError, ClientDisconnect, *(c for c, _ in STATUS), *STORE_ERRORS)
    for cls in (*handled, Exception):
        app.add_exception_handler(cls, answer)


def problem_of(error: Exception) -> Problem:
    """What an exception means to the client."""
    if isinstance(error, RequestError):
        fields = [] if error.pointer is None else [FieldError(error.pointer, str(error), error.code)]
        return Problem(error.status, error.code, str(error), fields, error.headers)
    if isinstance(error, RequestValidationError):
        return Problem(422, "invalid_request", "A parameter is not as it should be.", _parameter_errors(error))
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "client_disconnected", "The connection closed before the body was complete.")
    if isinstance(error, STORE_ERRORS):
        return Problem(503, "store_unavailable", "The database does not answer; try again.", headers={"Retry-After": "5"})
    for cls, status in STATUS:
        if isinstance(error, cls):
            later = {"Retry-After": str(RETRY_SECONDS)} if status == 429 else {}
            return Problem(status, getattr(error, "code", "error"), str(error), _fields(error), later)
    return Problem(500, "internal", "The service failed unexpectedly; its log names the cause under this request_id.")


def response_of(problem: Problem, request: Request) -> JSONResponse:
    """A problem as ``application/problem+json``; what it says of this server's folders are their names."""
    settings: Settings = request.app.state.context.settings
    body = {
        "type": f"urn:automl-prune:problem:{problem.code}",
        "title": TITLES.get(problem.status) or HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": _short(without_places(problem.detail, settings), _LONGEST_DETAIL),
        "instance": quote(request.scope["path"][:_LONGEST_POINTER], safe="/:@-._~"),
        "code": problem.code,
        "request_id": request_id(request.scope),
        "errors": [_error(e, settings) for e in problem.errors[:_MOST_ERRORS]],
    }
    # Also set here: a 500 is answered outside of the middleware that sets them on everything else.
    headers = {**SECURITY, **problem.headers, REQUEST_ID: request_id(request.scope)}
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The problem that an exception is; the log is told of the service's own."""
    problem = problem_of(error)
    if problem.status == 405:
        problem = replace(problem, headers={**problem.headers, "Allow": _allowed(request)})
    if problem.status >= 500:
        # Not the error itself: SQLAlchemy's quotes the statement with everything that was sent.
        cause = getattr(error, "orig", None) or type(error).__name__
        about = {"request_id": request_id(request.scope)}
        log.error("%s %r: %s", request.method, request.scope["path"], cause, extra=about)
    return response_of(problem, request)


def _of_http(error: HTTPException) -> Problem:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    details = {
        404: "There is nothing at this path; /docs lists what there is.",
        405: "This path does not take this method; the Allow header lists those it takes.",
    }
    detail = details.get(error.status_code, str(error.detail))
    return Problem(error.status_code, code, detail, headers=dict(error.headers or {}))


def _allowed(request: Request) -> str:
    """The methods that this path takes; Starlette names those of one route, and a path may have several."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    taken = {
        method for method in _METHODS for r in routes if r.matches({**request.scope, "method": method})[0] is Match.FULL
    } or {"GET"}  # files of the page
    return ", ".join(["GET", "HEAD"] * ("GET" in taken) + sorted(taken - {"GET"}))  # every GET is answered to HEAD, too


def _fields(error: Exception) -> Sequence[FieldError]:
    if isinstance(error, SpecError):
        return error.errors
    if isinstance(error, UserError):
        return [FieldError(error.pointer, str(error), error.code)]
    return []


def _parameter_errors(error: RequestValidationError) -> list[FieldError]:
    return [FieldError("/" + "/".join(map(str, e["loc"])), f"{e['msg']}.", e["type"]) for e in error.errors()]


def _error(error: FieldError, settings: Settings) -> dict[str, Any]:
    return {
        "pointer": _short(error.pointer, _LONGEST_POINTER),
        "detail": _short(without_places(error.detail, settings), _LONGEST_DETAIL),
        "code": error.code,
    }


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
