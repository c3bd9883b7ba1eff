"""Reading what strangers order: a number is a number, and neither a text nor a truth value that looks like one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, to_json

M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

_EXACT = 2**53
"""Up to here every whole float is one integer."""
_DEEPEST = 100

Place = tuple[str | int, ...]


def read(model: type[M], data: Mapping[str, Any]) -> M:
    """Make a model from JSON data, by JSON's types: ``"7"`` is no number, ``1`` is not true, but ``7.0`` is 7.

    Raises:
        pydantic.ValidationError: As the model says.
    """
    text = to_json(_whole(data, ()), inf_nan_mode="constants", fallback=_plain)
    return model.model_validate_json(text, strict=True)


def said(finding: ErrorDetails) -> str:
    """One of pydantic's findings in words, with what came where that is short, so that no secret or megabyte is echoed."""
    came = finding.get("input")
    shown = f" (came: {came!r})" if isinstance(came, str | int | float | bool) and len(repr(came)) <= 80 else ""
    return f"{finding['msg'].removeprefix('Value error, ')}{shown}."


def escaped(key: str) -> str:
    """A key as part of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _whole(value: Any, place: Place) -> Any:
    """The same with floats that are whole as integers, which fields for either take; what JSON cannot be is refused."""
    if len(place) > _DEEPEST:
        raise _refusal("too_deep", f"It is nested more than {_DEEPEST} levels deep", place)
    if isinstance(value, Mapping):
        return {_text(key, place): _whole(item, (*place, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item, (*place, i)) for i, item in enumerate(value)]
    if isinstance(value, str | bytes):
        return _text(value, place)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _plain(value: Any) -> Any:
    """What Python callers may write instead of JSON: numbers of numpy; anything else is refused as the text it is."""
    return value.item() if hasattr(value, "item") else str(value)


def _text(value: Any, place: Place) -> Any:
    """A text as it is; refused where it is none that can be written down."""
    try:
        value.decode() if isinstance(value, bytes) else str(value).encode()
    except UnicodeError:
        raise _refusal("unstorable_text", "Text must be UTF-8, without unpaired surrogates", place) from None
    return value


def _refusal(code: str, said: Any, place: Place) -> ValidationError:
    at = tuple(part.encode(errors="replace").decode() if isinstance(part, str) else part for part in place)
    return ValidationError.from_exception_data(
        "strict", [InitErrorDetails(type=PydanticCustomError(code, said), loc=at, input=None)]
    )
