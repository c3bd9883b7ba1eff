"""Whether a machine's launcher works: it leaves a mark each time that the store answered it, which says how it is."""

import json
import os
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.settings import Settings

STALE_SECONDS = 60.0
"""Age of a mark after which its launcher counts as stuck; starting a local Ray may take half of it."""

_EVERY_SECONDS = 1.0
_FORGOTTEN_SECONDS = 7 * 86400.0


@dataclass(frozen=True)
class Seen:
    """A launcher, as its mark tells.

    Attributes:
        at: When it left the mark.
        slots, taken: How many searches it may run, and runs.
        trouble: Why it starts none, if that is so.
    """

    at: datetime
    slots: int = 1
    taken: int = 0
    trouble: str | None = None

    @property
    def works(self) -> bool:
        """Whether that was a moment ago."""
        return (datetime.now(UTC) - self.at).total_seconds() <= STALE_SECONDS


def launchers(settings: Settings) -> Sequence[Seen]:
    """Those of all machines that share the folder ``home``, the last one to leave a mark first."""
    files = (settings.home / "launchers").glob("*")
    found = [seen for file in files if (seen := _read(file)) is not None]
    return sorted(found, key=lambda seen: seen.at, reverse=True)


class Mark:
    """The mark of this machine's launcher: a file below ``home``, named after the machine or container."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "launchers"
        self._file = self._folder / re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._draft = settings.home / f".launcher-{self._file.name}"
        self._renewed = 0.0

    def renew(self, *, slots: int = 1, taken: int = 0, trouble: str | None = None) -> None:
        """Say that the launcher works, and how; writes at most once a second."""
        now = time.monotonic()
        if now - self._renewed >= _EVERY_SECONDS or not self._renewed:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            with suppress(OSError):  # a full disk is no reason to be taken for dead
                self._draft.write_text(json.dumps({"slots": slots, "taken": taken, "trouble": trouble}))
                os.replace(self._draft, self._file)
            self._renewed = now

    def remove(self) -> None:
        """Say that the launcher ended, and forget those that did not get to say so, a week ago or earlier."""
        self._file.unlink(missing_ok=True)
        for other in self._folder.glob("*"):
            if (_age(other) or 0) > _FORGOTTEN_SECONDS:
                other.unlink(missing_ok=True)

    def age(self) -> float | None:
        """Seconds since the launcher last worked; None when there is none."""
        return _age(self._file)


def _read(file: Path) -> Seen | None:
    """A mark; one without words, or with unknown ones, is another program's or was left on a full disk."""
    at = datetime.now(UTC)
    try:
        at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        return Seen(at, **json.loads(file.read_text() or "{}"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Seen(at)


def _age(file: Path) -> float | None:
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except FileNotFoundError:
        return None
