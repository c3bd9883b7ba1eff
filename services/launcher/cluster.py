"""A Ray cluster of other machines, as the launcher sees it.

A driver talks to Ray through a node on its own machine. Where the launcher's machine has none, ``ray_join`` starts one that
has no processors, so that no trial runs there, for as long as the launcher runs.
"""

import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime

from services import ray_auth
from services.settings import Settings

log = logging.getLogger("automl_prune.launcher")

GRACE_SECONDS = 10.0
_LOOK_SECONDS = 2.0
_NODE = (
    *("ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
    *("--num-cpus", "0", "--num-gpus", "0"),
)
_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})")


class Cluster:
    """The cluster at ``ray_address``, if there is one.

    Args:
        settings: Name it, and say whether to join it.
    """

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_address
        self._joins = settings.ray_join and self._address is not None
        self._node: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._reachable, self._looked = True, 0.0
        self._away_since = datetime.now(UTC)

    def reachable(self) -> bool:
        """Whether its head accepts connections, as of the last two seconds; searches wait in the queue while it does not."""
        if self._address is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return self._reachable
        before, self._reachable = self._reachable, accepts(self._address)
        self._looked = time.monotonic()
        if before != self._reachable:
            self._away_since = datetime.now(UTC)
            log.warning("Ray at %s %s", self._address, "is back" if self._reachable else "cannot be reached; waiting for it")
        return self._reachable

    @property
    def trouble(self) -> str | None:
        """What is wrong, for those who wait."""
        return None if self._reachable else f"Ray cannot be reached since {self._away_since:%Y-%m-%d %H:%M:%S} UTC"

    def join(self) -> None:
        """Have a node on this machine, if one was ordered; does not wait for it, as drivers do."""
        if not self._joins or (self._node is not None and self._node.poll() is None):
            return
        if self._node is not None:
            log.warning("the Ray node ended with exit code %d; starting it again", self._node.returncode)
        self.leave()
        self._folder = tempfile.TemporaryDirectory(prefix="ap-", dir=_short_base(), ignore_cleanup_errors=True)
        where = ["--address", str(self._address), "--temp-dir", self._folder.name]
        self._node = subprocess.Popen(
            [sys.executable, "-m", "services.cli.tethered", *_NODE, *where],
            env=_for_ray(),
            stdin=subprocess.PIPE,  # closes with this process, which ends the node
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )
        log.info("joining Ray at %s", self._address)

    def leave(self) -> None:
        """End the node."""
        if self._node is None:
            return
        with self._node as node:
            node.terminate()
            try:
                node.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                node.kill()
        self._node = None
        if self._folder is not None:
            self._folder.cleanup()


def _for_ray() -> dict[str, str]:
    """The environment, without what others whose tasks run on the node must not read; of secrets only Ray's own token."""
    token = {name: value for name, value in os.environ.items() if name == "RAY_AUTH_TOKEN"}
    return ray_auth.without_secrets(os.environ) | token


def _short_base() -> str | None:
    """Where temporary folders go; the names of Ray's sockets below them may have some 100 characters."""
    return None if len(tempfile.gettempdir()) <= 30 else "/tmp"


def accepts(address: str) -> bool:
    """Whether somebody accepts connections at ``HOST:PORT``; other addresses are believed. Ray itself tries for 40 s."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return True
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=1).close()
    except OSError:
        return False
    return True
