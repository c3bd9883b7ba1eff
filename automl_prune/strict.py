"""Reading what strangers order: a number is a number, and neither a text nor a truth value that looks like one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

_EXACT = 2**53
"""Up to here every whole float is one integer."""


def read(model: type[M], data: Mapping[str, Any]) -> M:
    """Make a model from JSON data, by JSON's types: ``"7"`` is no number, ``1`` is not true, but ``7.0`` is 7.

    Raises:
        pydantic.ValidationError: As the model says.
    """
    text = to_json(_whole(data), inf_nan_mode="constants", fallback=_plain)
    return model.model_validate_json(text, strict=True)


def _whole(value: Any) -> Any:
    """The same with floats that are whole as integers, which fields for either take."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _plain(value: Any) -> Any:
    """What Python callers may write instead of JSON: numbers of numpy; anything else is refused as the text it is."""
    return value.item() if hasattr(value, "item") else str(value)
