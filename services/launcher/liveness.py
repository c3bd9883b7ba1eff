"""Whether a machine's launcher works: it leaves a mark each time that the store answered it."""

import re
import socket
import time
from pathlib import Path

from services.settings import Settings

STALE_SECONDS = 60.0
"""Age of a mark after which its launcher counts as stuck; starting a local Ray may take half of it."""

_EVERY_SECONDS = 1.0
_FORGOTTEN_SECONDS = 7 * 86400.0


class Mark:
    """The mark of this machine's launcher: a file below ``home``, named after the machine or container."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "launchers"
        self._file = self._folder / re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._renewed = 0.0

    def renew(self) -> None:
        """Say that the launcher works; writes at most once a second."""
        now = time.monotonic()
        if now - self._renewed >= _EVERY_SECONDS or not self._renewed:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file.touch()
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


def _age(file: Path) -> float | None:
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except FileNotFoundError:
        return None
