"""Reading JSON from strangers: bounded in size and depth, finite numbers, text that any database can keep."""

import json
import math
from typing import Any

from fastapi import Request

from services.api.problems import RequestError

MAX_DEPTH = 20


async def read_json(request: Request, max_bytes: int) -> Any:
    """The request's body as JSON data.

    Raises:
        RequestError: 415 another media type; 413 longer than ``max_bytes``, declared or not; else as :func:`parse_json`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise RequestError(415, "unsupported_media_type", "Send the body as JSON, with 'Content-Type: application/json'.")
    return parse_json(await _read(request, max_bytes))


def parse_json(raw: bytes) -> Any:
    """JSON data from UTF-8 bytes.

    Raises:
        RequestError: 400 not JSON or nested deeper than ``MAX_DEPTH``; 422 NaN, an infinity, or text with a NUL or an
            unpaired surrogate.
    """
    try:
        data = json.loads(raw.decode())
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise RequestError(400, "malformed_json", f"The body is not JSON: {where}.") from None
    except UnicodeDecodeError as error:
        raise RequestError(400, "malformed_json", f"The body is not UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise _too_deep("") from None
    except ValueError:
        raise RequestError(400, "malformed_json", "The body has an integer with thousands of digits.") from None
    _check(data, "", 0)
    return data


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = RequestError(413, "body_too_large", f"The body may have at most {max_bytes} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _check(value: Any, pointer: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep(pointer)
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, pointer)
            _check(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check(item, f"{pointer}/{i}", depth + 1)
    elif isinstance(value, str):
        _check_text(value, pointer)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RequestError(422, "not_finite", "Numbers must be finite: no NaN, no infinity.", pointer=pointer)


def _check_text(text: str, pointer: str) -> None:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        detail = "Text must not contain NUL or unpaired surrogates."
        raise RequestError(422, "unstorable_text", detail, pointer=pointer)


def _too_deep(pointer: str) -> RequestError:
    return RequestError(400, "too_deep", f"The body is nested more than {MAX_DEPTH} levels deep.", pointer=pointer)
