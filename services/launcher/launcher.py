"""Claims queued searches, starts one driver process for each, and watches them.

A driver that dies without recording an end loses its attempt: the search goes back to the queue, at most ``max_attempts``
times. When the launcher is told to stop, it stops its drivers and gives their searches back to the queue.
"""

import logging
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass

from automl_prune.errors import AutomlPruneError
from automl_prune.execution import connect
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.ports import Store
from services.launcher.cluster import Cluster
from services.launcher.liveness import Mark
from services.settings import Settings, environment

log = logging.getLogger("automl_prune.launcher")

POLL_SECONDS = 0.3
GRACE_SECONDS = 10.0
STARTING_SECONDS = 120.0
"""Lease of a claim until its driver renews it: time for a local Ray and a Python process to start on a busy machine."""


@dataclass
class Running:
    """A search and the process that drives it."""

    job: SearchJob
    process: subprocess.Popen[bytes]


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
        self._cluster, self._mark = Cluster(settings), Mark(settings)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then stop the drivers."""
        with self._ray:
            self._ray.callback(self._mark.remove)
            self._ray.callback(self._cluster.leave)
            while not stop.wait(POLL_SECONDS):
                try:
                    self.step()
                    self._mark.renew()
                except Exception:
                    log.exception("the store did not answer; trying again")
            self.stop_all()

    def step(self) -> None:
        """Look after drivers that ended, and start one if there is room and work."""
        for running in [r for r in self._running if r.process.poll() is not None]:
            self._running.remove(running)
            self._settle(running)
        if len(self._running) < self._settings.max_running and self._cluster.reachable():
            job = self._store.claim(lease_seconds=max(STARTING_SECONDS, self._settings.lease_seconds))
            if job is not None:
                self._take(job)

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

    def _take(self, job: SearchJob) -> None:
        try:
            self._running.append(Running(job, self._start(job)))
        except Exception as error:
            log.exception("no driver could be started for %s", job.id)
            self._lost(job, f"no driver could be started: {type(error).__name__}: {error}")

    def _start(self, job: SearchJob) -> subprocess.Popen[bytes]:
        folder = self._settings.artifacts_root / job.id
        folder.mkdir(parents=True, exist_ok=True)
        if job.spec.get("execution") != "inline":
            self._start_ray()
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
        """Without a configured cluster, a local Ray starts with the first search that needs it and ends with the launcher.

        It puts its authentication into this process's environment, where drivers inherit it from.
        """
        self._cluster.join()
        if self._ray_address is None:
            connection = self._ray.enter_context(connect(None, num_cpus=self._settings.workers))
            self._ray_address = connection.address
            log.info("local Ray started, dashboard %s", connection.dashboard)

    def _settle(self, running: Running) -> None:
        """Whatever a driver left open when it ended."""
        job = self._store.get_search(running.job.id)
        if job.state.is_terminal or job.attempt != running.job.attempt:
            return
        code = running.process.returncode
        self._lost(job, f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}")

    def _lost(self, job: SearchJob, how: str) -> None:
        """Queue a search again whose driver was lost, unless too many were."""
        losses, most = int(job.info.get("losses", 0)) + 1, self._settings.max_attempts
        state = SearchState.FAILED if losses >= most else job.state
        reason = f"driver {losses} of at most {most} was lost: {how}; see search.log"
        self._store.set_state(job.id, job.attempt, state, reason=reason, info={"losses": losses})
        self._give_back(job, f"queued again: {reason}")

    def _give_back(self, job: SearchJob, reason: str) -> None:
        try:
            if not self._store.get_search(job.id).state.is_terminal:
                self._store.release(job.id, job.attempt, reason=reason)
        except AutomlPruneError as error:
            log.warning("%s could not be given back: %s", job.id, error)
