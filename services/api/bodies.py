"""Reading JSON from strangers: bounded in size, depth and length, each field once, finite numbers, text that can be kept."""

import json
import math
from collections import Counter
from email.message import Message
from typing import Any

from fastapi import Request

from automl_prune.strict import escaped
from services.api.problems import RequestError

MAX_DEPTH = 20
MAX_ITEMS = 10_000
"""Of one list or object."""


class _Repeated(dict[str, Any]):
    """An object in which ``name`` came more than once: what the second one means, readers disagree about."""

    name = ""


async def read_json(request: Request, max_bytes: int) -> Any:
    """The request's body as JSON data.

    Raises:
        RequestError: 415 another media type or charset, or compressed; 413 longer than ``max_bytes``, declared or not; else
            as :func:`parse_json`.
    """
    media_type, charset = _content_type(request.headers.get("content-type", ""))
    if media_type != "application/json" and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise RequestError(415, "unsupported_media_type", "Send the body as JSON, with 'Content-Type: application/json'.")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise RequestError(415, "unsupported_charset", "JSON is UTF-8; send it as that, or without a charset.")
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise RequestError(415, "unsupported_encoding", f"Send the body as it is, not compressed ({coding[:20]}).")
    return parse_json(await _read(request, max_bytes))


def parse_json(raw: bytes) -> Any:
    """JSON data from UTF-8 bytes.

    Raises:
        RequestError: 400 not JSON or nested deeper than ``MAX_DEPTH``; 422 a field given twice, a list or object of more
            than ``MAX_ITEMS``, NaN, an infinity, or text with a NUL or an unpaired surrogate.
    """
    try:
        data = json.loads(raw.decode(), object_pairs_hook=_object)
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


def _content_type(header: str) -> tuple[str, str]:
    """Media type and charset, in small letters; JSON's own where none is said."""
    message = Message()
    message["content-type"] = header
    charset = message.get_param("charset", "utf-8")
    return message.get_content_type() if header.strip() else "", str(charset).strip().lower()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        found = _Repeated(found)
        found.name = names.most_common(1)[0][0]
    return found


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
    if isinstance(value, dict | list) and len(value) > MAX_ITEMS:
        detail = f"A list or an object may have at most {MAX_ITEMS} items."
        raise RequestError(422, "too_many_items", detail, pointer=pointer)
    if isinstance(value, _Repeated):
        _check_text(value.name, pointer)
        at = f"{pointer}/{escaped(value.name)}"
        raise RequestError(422, "duplicate_field", "This field is given more than once.", pointer=at)
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, pointer)
            _check(item, f"{pointer}/{escaped(key)}", depth + 1)
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
