"""How processes of the service log: one line per event on stderr, as text or as JSON, without libraries' small talk.

What a line is about rides along: fields given as ``extra=``, and those of the :func:`about` blocks around it.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = ("alembic", "httpx", "httpcore")
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


def configure(log_format: str = "text", **always: Any) -> None:
    """Log from INFO on, some libraries from WARNING on; every line of JSON carries ``always``."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json(always) if log_format == "json" else Text())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines logged inside, also by threads started from here with this context, carry these fields."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class Json(logging.Formatter):
    """One JSON object per line: ``at`` (UTC), ``level``, ``logger``, ``message``, the fields, and ``exception``."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Text(logging.Formatter):
    """Time, level, logger, message, and the fields as ``name=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging names it)
        """The line of a record, without its traceback."""
        line = [super().formatMessage(record), *(f"{name}={value}" for name, value in _fields(record).items())]
        # What strangers sent must not break the line: the next one would look like ours.
        return "".join(c if c.isprintable() else " " for c in " ".join(line))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record is about, without what is None."""
    # Ray adds private attributes of its own to every record.
    given = {name: value for name, value in vars(record).items() if name not in _PLAIN and not name.startswith("_")}
    return {name: value for name, value in {**_about.get(), **given}.items() if value is not None}
