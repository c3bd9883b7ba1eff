"""Claims queued searches, starts one driver process for each, and watches them.

A driver that dies without recording an end loses its attempt: the search goes back to the queue, and fails with the
``max_attempts``-th in a row that brought no outcome. Where nothing could be started the search is not to blame: it only
goes back, and the launcher takes its time before the next start. When the launcher is told to stop, it stops its drivers and
gives their searches back to the queue; when it is killed, they notice and do that themselves.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from automl_prune.errors import LeaseLostError
from automl_prune.loop.job import SearchJob, SearchState, Worker
from automl_prune.loop.ports import Limits, Store
from automl_prune.loop.run import no_room
from automl_prune.messages import is_storage_full, said
from automl_prune.storage.patient import is_away
from automl_prune.trial import TrialState
from services.launcher.backoff import Backoff
from services.launcher.cluster import Cluster
from services.launcher.liveness import Mark
from services.launcher.local_ray import NOT_STARTED, LocalRay
from services.launcher.running import GIVEN_BACK, Running
from services.outages import Outages
from services.settings import Settings, environment

log = logging.getLogger("automl_prune.launcher")

POLL_SECONDS = 0.3
GRACE_SECONDS = 10.0
CANCEL_SECONDS = 9.0
"""How long a driver may take to stop when its search is cancelled; then it is killed."""
LOOK_SECONDS = 1.0
"""How often that is looked at."""
STARTING_SECONDS = 120.0
"""Lease of a claim until its driver renews it; the launcher renews it while Ray and the driver start."""
IMPORTING_SECONDS = 600.0
"""How long a driver may take until it renews the lease itself; then it counts as stuck."""

_NO_DRIVER = "no driver can be started"


class Launcher:
    """See the module.

    Args:
        store: Where searches queue.
        settings: How many at once, and what drivers are told.
        limits: Asked how many searches that an API key ordered may run at once, on all machines together.
    """

    def __init__(self, store: Store, settings: Settings, limits: Callable[[], Limits | None] = lambda: None) -> None:
        self._store, self._settings, self._limits = store, settings, limits
        self._running: list[Running] = []
        self._waiting: list[SearchJob] = []
        self._cluster, self._mark = Cluster(settings), Mark(settings)
        self._ray = LocalRay(settings.workers, settings.home)
        self._worker, self._backoff = Worker.here("launcher"), Backoff()
        self._starting = max(STARTING_SECONDS, settings.lease_seconds)
        self._claims_from = self._look_from = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then stop the drivers."""
        outages = Outages(log, "the store")
        with ExitStack() as leaving:
            leaving.callback(self._mark.remove)
            leaving.callback(self._cluster.leave)
            leaving.callback(self._ray.end)
            while not stop.wait(POLL_SECONDS):
                try:
                    self.step()
                    self._mark.renew(slots=self._settings.max_running, taken=self.taken, trouble=self.trouble)
                    outages.answered()
                except Exception as error:
                    outages.failed(error)
                    self._let_others_renew()
            self.stop_all()

    def step(self) -> None:
        """Look after drivers that ended or should, anybody's, and start one if there is room and work."""
        looks = time.monotonic() >= self._look_from
        self._look_after_waiting(renew=looks)
        self._look_after_ray()
        for running in [r for r in self._running if r.ended]:
            self._settle(running)
            self._running.remove(running)
            running.close()
        if looks:
            for running in self._running:
                self._look_at(running)
            if time.monotonic() >= self._claims_from:
                self._store.settle_lapsed(most_losses=self._settings.max_attempts)
            self._look_from = time.monotonic() + LOOK_SECONDS
        room = self.taken < self._settings.max_running and time.monotonic() >= self._claims_from
        if self._cluster.reachable() and room and self._backoff.over:
            job = self._claim()
            if job is not None:
                self._take(job)

    @property
    def taken(self) -> int:
        """How many searches it has."""
        return len(self._running) + len(self._waiting)

    @property
    def trouble(self) -> str | None:
        """Why it starts none, where there is room."""
        return self._cluster.trouble or self._backoff.trouble

    def stop_all(self) -> None:
        """End every driver and give its search back to the queue; where the store is away, leases will run out."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.stop(GRACE_SECONDS)
            running.close()
        for job in (*self._waiting, *(running.job for running in self._running)):
            self._give_back(job, GIVEN_BACK)
        self._waiting.clear()
        self._running.clear()

    # Starting --------------------------------------------------------------------------------------------------------

    def _claim(self) -> SearchJob | None:
        return self._store.claim(
            lease_seconds=self._starting,
            worker=self._worker,
            limits=self._limits() or None,
            most_losses=self._settings.max_attempts,
        )

    def _take(self, job: SearchJob) -> None:
        """Start a driver, or have it wait for a Ray that must start first: that takes longer than anybody should wait."""
        self._waiting.append(job)
        if self._needs_local_ray(job):
            self._ray.begin()
            self._store.set_state(job.id, job.attempt, SearchState.PREPARING, reason="waiting for Ray to start")
        else:
            self._look_after_waiting(renew=False)

    def _needs_local_ray(self, job: SearchJob) -> bool:
        return job.spec.get("execution") != "inline" and self._settings.ray_address is None

    def _look_after_waiting(self, *, renew: bool) -> None:
        """Start what Ray is ready for; give back what should stop, or will never start."""
        for job in list(self._waiting):
            on_local_ray = self._needs_local_ray(job)
            if on_local_ray and self._ray.died:
                self._not_started(job, NOT_STARTED, NOT_STARTED)
            elif not on_local_ray or self._ray.ready:
                self._launch(job)
            elif renew and not self._still_wanted(job):
                self._give_back(job, GIVEN_BACK)
            else:
                continue
            self._waiting.remove(job)

    def _still_wanted(self, job: SearchJob) -> bool:
        """Renew the lease of a search that waits; whether it goes on to do so."""
        try:
            now = self._store.renew(job.id, job.attempt, lease_seconds=self._starting)
        except LeaseLostError:
            return False
        return not (now.cancel_requested or now.pause_requested)

    def _launch(self, job: SearchJob) -> None:
        try:
            self._running.append(self._start(job))
        except Exception as error:
            if is_away(error):
                raise  # it stays with those that wait
            log.exception("no driver could be started for %s", job.id)
            if is_storage_full(error):
                self._not_started(job, no_room(said(error)), "there is no room for files", hold=True)
            else:
                self._not_started(job, f"no driver could be started: {said(error)}", _NO_DRIVER)

    def _start(self, job: SearchJob) -> Running:
        trials = ended_trials(self._store, job)
        folder = self._settings.artifacts_root / job.id
        folder.mkdir(parents=True, exist_ok=True)
        on_local_ray = self._needs_local_ray(job)
        if self._settings.ray_address is not None and job.spec.get("execution") != "inline":
            self._cluster.join()
        # no machine joins the local Ray
        ray = {"ray_address": self._ray.address, "ray_patience_seconds": 0.0} if on_local_ray else {}
        told = environment(self._settings.model_copy(update=ray))
        log.info("starting %s, attempt %d", job.id, job.attempt)
        with (folder / "search.log").open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.cli.tethered", "services.driver", job.id, str(job.attempt)],
                env={**os.environ, **told, **self._ray.environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,  # closes with this process: the driver then gives its search back
            )
        return Running(job, process, trials, on_local_ray)

    # Watching --------------------------------------------------------------------------------------------------------

    def _look_after_ray(self) -> None:
        """When the local Ray died, end the drivers that wait for it in vain; the next search starts another one."""
        if self._ray.died:
            for running in self._running:
                if running.on_local_ray:
                    running.kill("the local Ray died under it")
            self._ray.end()

    def _look_at(self, running: Running) -> None:
        """Keep the claim of a driver that still starts, and kill one that should have stopped."""
        job = running.job
        now = self._store.get_search(job.id)
        if _is_driven(now, job) and now.owner == self._worker.name:
            if running.age > IMPORTING_SECONDS:
                running.kill(f"it did not get to work within {IMPORTING_SECONDS:.0f} seconds")
            else:
                with suppress(LeaseLostError):  # or it has ended meanwhile
                    self._store.renew(job.id, job.attempt, lease_seconds=self._starting)
        if now.cancel_requested and running.overdue(CANCEL_SECONDS):
            running.kill(f"it did not stop within {CANCEL_SECONDS:.0f} seconds of the request")

    def _let_others_renew(self) -> None:
        """Take nothing from anybody for a moment: leases of working drivers may have run out while the store was away."""
        self._claims_from = time.monotonic() + self._settings.lease_seconds / 3 + 2

    # Settling --------------------------------------------------------------------------------------------------------

    def _settle(self, running: Running) -> None:
        """Whatever a driver left open when it ended."""
        job, how = running.job, f"{running.how_it_ended()}; see search.log"
        now = self._store.get_search(job.id)
        if not _is_driven(now, job):
            self._judge(running)
        elif running.asked_to_stop is not None:
            self._give_back(job, how)
        elif now.owner == self._worker.name:
            self._not_started(job, f"its driver did not get to work: {how}", _NO_DRIVER)
        else:
            self._judge(running)
            self._lost(job, how)

    def _judge(self, running: Running) -> None:
        """Whether the start came to something: the driver ended in order, or brought an outcome before it was lost."""
        if running.process.returncode == 0 or ended_trials(self._store, running.job) > running.trials_before:
            self._backoff.worked()
        elif running.asked_to_stop is None:
            self._backoff.failed("the last driver that was started came to nothing")

    def _not_started(self, job: SearchJob, why: str, trouble: str, *, hold: bool = False) -> None:
        """Give a search back that is not to blame, and take some time before the next one is tried.

        What the ``trouble`` is others are told too, who are not to know of this search.
        """
        self._backoff.failed(trouble)
        try:
            self._store.release(job.id, job.attempt, reason=why if hold else f"queued again: {why}", hold=hold)
        except LeaseLostError as error:
            log.warning("%s could not be given back: %s", job.id, error)

    def _lost(self, job: SearchJob, how: str) -> None:
        """Queue a search again whose driver was lost, unless too many were."""
        try:
            self._store.release(job.id, job.attempt, reason=how, lost=True, most_losses=self._settings.max_attempts)
        except LeaseLostError as error:
            log.warning("%s could not be given back: %s", job.id, error)

    def _give_back(self, job: SearchJob, reason: str) -> None:
        try:
            if _is_driven(self._store.get_search(job.id), job):
                self._store.release(job.id, job.attempt, reason=reason)
        except Exception as error:  # a store that is away keeps nobody from giving back the others, nor from ending
            log.warning("%s could not be given back: %s", job.id, said(error))


def ended_trials(store: Store, job: SearchJob) -> int:
    """How many trials of a search have their outcome."""
    counts = store.progress(job.id).values()
    return sum(number for states in counts for state, number in states.items() if TrialState(state).is_terminal)


def _is_driven(now: SearchJob, job: SearchJob) -> bool:
    """Whether the search still counts as driven by this launcher's attempt."""
    return now.attempt == job.attempt and now.lease_expires_at is not None
