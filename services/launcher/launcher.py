"""Claims queued searches, starts one driver process for each, and watches them.

A driver that dies without recording an end loses its attempt: the search goes back to the queue, at most ``max_attempts``
times. When the launcher is told to stop, it stops its drivers and gives their searches back to the queue.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from automl_prune.errors import AutomlPruneError, LeaseLostError
from automl_prune.execution import connect
from automl_prune.search.job import SearchJob, SearchState
from automl_prune.search.ports import Store
from services.settings import Settings
from services.wiring import environment

log = logging.getLogger("automl_prune.launcher")

POLL_SECONDS = 0.3
GRACE_SECONDS = 10.0
STARTING_SECONDS = 60.0
_OPEN = (SearchState.QUEUED, SearchState.PREPARING, SearchState.RUNNING, SearchState.FINISHING)


@dataclass
class Running:
    """A search and the process that drives it."""

    job: SearchJob
    process: subprocess.Popen[bytes]
    since: float


class Launcher:
    """See the module.

    Args:
        store: Where searches queue.
        settings: How many at once, and what drivers are told.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._running: list[Running] = []
        self._ray = ExitStack()
        self._ray_address = settings.ray_address

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then stop the drivers."""
        with self._ray:
            while not stop.wait(POLL_SECONDS):
                try:
                    self.step()
                except Exception:
                    log.exception("the store did not answer; trying again")
            self.stop_all()

    def step(self) -> None:
        """Look after drivers that ended, and start one if there is room and work."""
        for running in [r for r in self._running if r.process.poll() is not None]:
            self._running.remove(running)
            self._settle(running)
        for running in self._running:
            self._hold(running)
        if len(self._running) < self._settings.max_running and self._store.list_searches(states=_OPEN, limit=1):
            self._start_ray()
            job = self._store.claim(lease_seconds=self._settings.lease_seconds)
            if job is not None:
                self._running.append(Running(job, self._start(job), time.monotonic()))

    def stop_all(self) -> None:
        """End every driver and give its search back to the queue."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            try:
                running.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            self._give_back(running.job, "queued again: the service was stopped")
        self._running.clear()

    def _start(self, job: SearchJob) -> subprocess.Popen[bytes]:
        folder = self._settings.artifacts_root / job.id
        folder.mkdir(parents=True, exist_ok=True)
        settings = self._settings.model_copy(update={"ray_address": self._ray_address})
        log.info("starting %s, attempt %d", job.id, job.attempt)
        with (folder / "search.log").open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "services.driver", job.id, str(job.attempt)],
                env=os.environ | environment(settings),
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def _start_ray(self) -> None:
        """Without a configured cluster, a local Ray starts before the first search is claimed and ends with the launcher.

        It puts its authentication into this process's environment, where drivers inherit it from.
        """
        if self._ray_address is None:
            connection = self._ray.enter_context(connect(None, num_cpus=self._settings.workers))
            self._ray_address = connection.address
            log.info("local Ray started, dashboard %s", connection.dashboard)

    def _hold(self, running: Running) -> None:
        """Keep the lease of a search while its driver is starting and does not renew it yet."""
        if time.monotonic() - running.since < STARTING_SECONDS:
            with suppress(LeaseLostError):  # it ended just now
                self._store.renew(running.job.id, running.job.attempt, lease_seconds=self._settings.lease_seconds)

    def _settle(self, running: Running) -> None:
        """Whatever a driver left open when it ended."""
        job = self._store.get_search(running.job.id)
        if job.state.is_terminal or job.attempt != running.job.attempt:
            return
        code = running.process.returncode
        losses = int(job.info.get("losses", 0)) + 1
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._store.set_state(job.id, job.attempt, job.state, info={"losses": losses})
        if losses >= self._settings.max_attempts:
            reason = f"{losses} drivers were lost, the last by {how}; see search.log"
            self._store.set_state(job.id, job.attempt, SearchState.FAILED, reason=reason)
        else:
            self._give_back(job, f"queued again: driver {losses} of at most {self._settings.max_attempts} was lost by {how}")

    def _give_back(self, job: SearchJob, reason: str) -> None:
        try:
            if not self._store.get_search(job.id).state.is_terminal:
                self._store.release(job.id, job.attempt, reason=reason)
        except AutomlPruneError as error:
            log.warning("%s could not be given back: %s", job.id, error)
