"""Reading a stream of server-sent events as a browser does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Received:
    """One event."""

    event: str = "message"
    id: str | None = None
    retry: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def received(response: httpx.Response) -> Iterator[Received]:
    """The events of an open stream; comments are skipped."""
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
            continue
        if event := _parsed(lines):
            yield event
        lines = []


def _parsed(lines: list[str]) -> Received | None:
    values = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
    if not values:
        return None
    data = json.loads(values.pop("data", "{}"))
    return Received(**values, data=data)
