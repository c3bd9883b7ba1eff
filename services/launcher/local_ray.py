"""The Ray of this machine that searches share where no cluster is named; in a process of its own, so that it may die.

``python -m services.launcher.local_ray PROCESSORS`` starts a Ray, says on stdout where it is, and ends when a part of it
does, with 1, or on SIGTERM. The launcher starts another one when the next search needs it.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from automl_prune import execution
from automl_prune.errors import AutomlPruneError
from services import logs, ray_auth

log = logging.getLogger("automl_prune.launcher")

START_SECONDS = 180.0
NOT_STARTED = f"no local Ray started within {START_SECONDS:.0f} seconds; see the launcher's log"
GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.2

_VITAL = ("gcs_server", "raylet")


class LocalRay:
    """A Ray that is started when it is first needed, and again when it died.

    Args:
        processors: How many it has.
        home: Where the token is kept that it takes.
    """

    def __init__(self, processors: int, home: Path) -> None:
        self._processors, self._home = processors, home
        self._process: subprocess.Popen[bytes] | None = None
        self._where: Mapping[str, Any] = {}
        self._late = 0.0

    def start(self) -> None:
        """Have one, and wait for it; raises AutomlPruneError when it does not start."""
        self.begin()
        while not self.ready:
            if self.died:
                self.end()
                raise AutomlPruneError(NOT_STARTED)
            time.sleep(LOOK_SECONDS)

    def begin(self) -> None:
        """See that one runs or is about to; does not wait for it."""
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.cli.tethered", __name__, str(self._processors)],
            env=ray_auth.without_secrets(os.environ) | ray_auth.variables(self._home),
            stdin=subprocess.PIPE,  # closes with this process, which ends Ray
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._late = time.monotonic() + START_SECONDS

    @property
    def ready(self) -> bool:
        """Whether it has said where it is."""
        if self._process is None or self._process.stdout is None or self._where:
            return bool(self._where)
        readable, _, _ = select.select([self._process.stdout], [], [], 0)
        if readable and (line := self._process.stdout.readline()):
            self._where = json.loads(line)
            log.info("local Ray started, dashboard %s", self._where["dashboard"])
        return bool(self._where)

    @property
    def died(self) -> bool:
        """Whether it was begun and has ended since, or takes too long to start."""
        if self._process is None:
            return False
        return self._process.poll() is not None or (not self._where and time.monotonic() > self._late)

    @property
    def address(self) -> str | None:
        """Where it is, while it runs."""
        return self._where.get("address")

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to be let in."""
        return {**self._where.get("environment", {}), **ray_auth.variables(self._home)} if self._where else {}

    def end(self) -> None:
        """Stop it."""
        self._where = {}
        if self._process is None:
            return
        with self._process as process:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._process = None


def main(arguments: list[str]) -> int:
    """Be a Ray until it is told to stop, or a part of it dies."""
    logs.configure()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    before = dict(os.environ)
    with execution.connect(None, num_cpus=int(arguments[0])) as connection:
        parts = {child.name(): child for child in psutil.Process().children() if child.name() in _VITAL}
        changed = {name: value for name, value in os.environ.items() if before.get(name) != value and "RAY" in name}
        where = {"address": connection.address, "dashboard": connection.dashboard, "environment": changed}
        sys.stdout.write(f"{json.dumps(where)}\n")
        sys.stdout.flush()
        while not over.wait(LOOK_SECONDS):
            if dead := [name for name, part in parts.items() if not _lives(part)]:
                log.error("the local Ray is lost: its %s died", " and its ".join(dead))
                _end_the_rest()
                return 1
    return 0


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_the_rest() -> None:
    """Kill what is left of a Ray, whose parts would wait for each other; its folder is still removed in order."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    late = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    late.daemon = True
    late.start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
