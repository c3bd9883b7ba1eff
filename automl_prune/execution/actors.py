"""A pool of named Ray actors; every evaluation is a named task in Ray's dashboard.

Costs a few milliseconds per trial, so that it also fits evaluations that only score.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from automl_prune.errors import EvaluationError, WorkersLostError
from automl_prune.execution.cluster import LOCAL, cause_of_death, current, joined, lack, receive_evaluator, short_id
from automl_prune.execution.common import CANCELLED, PAUSE, Losses, evaluate_safely, sentence
from automl_prune.loop.ports import TrialSource
from automl_prune.trial import Evaluator, Outcome, Trial

logger = logging.getLogger(__name__)

STANDSTILL_SECONDS = 10.0
"""How long workers may be without a place, and nothing be evaluated, before that is told."""


class ActorsExecutor:
    """Evaluates on ``workers`` named Ray actors.

    Args:
        search_id: Names the actors: ``search-<its last characters>-w<number>``.
        workers: Actors at work at the same time.
        cpu: Processors of one worker; also its number of torch threads, at least one.
        gpu: GPUs of one worker; fractions share one.
        address: Of Ray, used when the process is not connected yet (see :func:`~.cluster.connect`).
        dashboard: Whether a Ray started for that has one.
        max_attempts: Workers that one trial may lose before it fails.
        patience: Seconds to wait for a machine that is large enough, where one may still come.
    """

    def __init__(
        self,
        search_id: str,
        *,
        workers: int = 2,
        cpu: float = 1.0,
        gpu: float = 0.0,
        address: str = LOCAL,
        dashboard: bool = True,
        max_attempts: int = 3,
        patience: float = 0.0,
    ) -> None:
        self.patience = patience
        self.search_id, self.workers, self.cpu, self.gpu = search_id, workers, cpu, gpu
        self.address, self.dashboard, self.max_attempts = address, dashboard, max_attempts
        self.names: list[str] = []

    def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        """Drive the source to its end.

        Raises:
            EvaluationError: No worker can be set up.
            NotReadyError: There was no machine for one.
            WorkersLostError: One after the other died while it was set up.
        """
        if source.finished or source.stopping:
            return
        with joined(
            self.address,
            self.workers,
            self.cpu,
            self.gpu,
            dashboard=self.dashboard,
            source=source,
            patience=self.patience,
        ):
            run = _Run(self, source, make_evaluator)
            try:
                run.drive()
            except EvaluationError:
                run.abandon()
                raise
            finally:
                run.dismiss()

    def describe(self) -> Mapping[str, Any]:
        """Its kind, its page in the dashboard while connected, and the names that its actors had so far."""
        dashboard = connection.page if (connection := current()) else None
        return {"kind": "actors", "workers": self.workers, "dashboard": dashboard, "actors": list(self.names)}

    def name_worker(self) -> str:
        """A name that no actor of this executor had before: Ray frees the name of a dead one at its leisure."""
        self.names.append(f"search-{short_id(self.search_id)}-w{len(self.names)}")
        return self.names[-1]


class PruneWorker:
    """The actor: builds its evaluator once, then evaluates one trial at a time."""

    def arrive(self) -> None:
        """Nothing: answers as soon as the actor has a place."""

    def build(self, factory: "list[ray.ObjectRef[Any]]", cpu: float, gpu: float) -> str | None:
        """Build the evaluator; the reason if it cannot be built, so that what raises here is Ray alone."""
        try:
            self._evaluator = receive_evaluator(factory[0], cpu, gpu)
        except EvaluationError as error:
            return str(error)
        return None

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate a trial; never raises."""
        logger.info("%s, attempt %d", trial.name, trial.attempt)
        return evaluate_safely(self._evaluator, trial)


class _Run:
    """One run: who sets itself up, who is busy with which trial, who is idle, and which trials wait for a worker.

    A trial belongs to no worker before it starts: one that is still setting itself up may never do so, where Ray lost the
    machine that it was meant for, and then the others take its trial.
    """

    def __init__(self, executor: ActorsExecutor, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        self._executor, self._source = executor, source
        self._factory = [ray.put(make_evaluator)]  # in a list Ray leaves the opening to the worker
        self._setting_up: dict[ray.ObjectRef[Any], Any] = {}
        self._arrivals: dict[ray.ObjectRef[Any], ray.ObjectRef[Any]] = {}
        self._still_since: float | None = None
        self._told_still = False
        self._busy: dict[ray.ObjectRef[Any], tuple[Any, Trial]] = {}
        self._idle: deque[Any] = deque()
        self._waiting: deque[Trial] = deque()
        self._died_in_set_up = 0
        self._losses = Losses(source, executor.max_attempts)

    def drive(self) -> None:
        while not self._source.stopping:
            self._hand_out()
            if not (self._busy or self._waiting) and self._source.finished:
                return
            self._collect()
            self._look()
        self.abandon()

    def abandon(self) -> None:
        """Dismiss the workers and complete what is in flight as cancelled."""
        self.dismiss()
        trials = [*(trial for _, trial in self._busy.values()), *self._waiting]
        for left in (self._setting_up, self._arrivals, self._busy, self._waiting):
            left.clear()
        for trial in trials:
            self._source.complete(trial, CANCELLED)

    def dismiss(self) -> None:
        """Kill every worker."""
        for worker in (*self._idle, *self._setting_up.values(), *(worker for worker, _ in self._busy.values())):
            ray.kill(worker)

    def _hand_out(self) -> None:
        """Give trials to idle workers, and hire for the others: a run of few trials needs few workers."""
        while len(self._busy) + len(self._waiting) < self._executor.workers:
            trial = self._source.next()
            if trial is None:
                break
            self._waiting.append(trial)
        while self._idle and self._waiting:
            self._start(self._idle.popleft(), self._waiting.popleft())
        for _ in range(len(self._waiting) - len(self._setting_up)):
            self._hire()

    def _hire(self) -> None:
        name, cpu, gpu = self._executor.name_worker(), self._executor.cpu, self._executor.gpu
        worker: Any = ray.remote(PruneWorker).options(name=name, num_cpus=cpu, num_gpus=gpu).remote()
        arrival, built = worker.arrive.remote(), worker.build.remote(self._factory, cpu, gpu)
        self._setting_up[built], self._arrivals[built] = worker, arrival

    def _start(self, worker: Any, trial: Trial) -> None:
        self._still_since = None
        if self._told_still:
            self._told_still = False
            self._source.stand_still(None)
        self._busy[worker.evaluate.options(name=trial.name).remote(trial)] = worker, trial

    def _collect(self) -> None:
        """Take in what has ended, waiting for it a moment: the source may have more by then, or be stopping."""
        awaited = [*self._setting_up, *self._busy]
        if not awaited:
            time.sleep(PAUSE)
            return
        ended, _ = ray.wait(awaited, num_returns=1, timeout=PAUSE)
        for ref in ended:
            if ref in self._busy:
                self._take_outcome(ref)
            else:
                self._take_worker(ref)

    def _look(self) -> None:
        """Tell the source when nothing is evaluated because Ray has no place for a worker; the next start takes it back."""
        if self._busy or not (self._waiting and self._setting_up):
            self._still_since = None
            return
        self._still_since = self._still_since or time.monotonic()
        if self._told_still or time.monotonic() - self._still_since < STANDSTILL_SECONDS:
            return
        arrived, _ = ray.wait(list(self._arrivals.values()), num_returns=1, timeout=0)
        if not arrived:
            self._told_still = True
            self._source.stand_still(f"waiting for a worker: {lack(self._executor.cpu, self._executor.gpu)}")

    def _take_worker(self, ref: "ray.ObjectRef[Any]") -> None:
        worker = self._setting_up.pop(ref)
        del self._arrivals[ref]
        try:
            reason = ray.get(ref)
        except RayError as error:
            ray.kill(worker)
            self._count_death_in_set_up(error)
            return
        self._idle.append(worker)
        if reason:
            raise EvaluationError(reason)
        self._died_in_set_up = 0

    def _count_death_in_set_up(self, error: RayError) -> None:
        """No trial is to blame, nor may the search be: their machine may have died under all of them."""
        self._died_in_set_up += 1
        if self._died_in_set_up >= self._executor.max_attempts:
            cause = sentence(error.cause) if isinstance(error, RayTaskError) else cause_of_death(str(error))
            raise WorkersLostError(
                f"{self._died_in_set_up} workers in a row died while building the evaluator, the last one: {cause}"
            )

    def _take_outcome(self, ref: "ray.ObjectRef[Any]") -> None:
        worker, trial = self._busy.pop(ref)
        try:
            result: Outcome | Trial = ray.get(ref)
            self._idle.append(worker)
        except RayTaskError as error:  # trial or outcome could not travel: the worker lives, and again would be no better
            result = Outcome.failed(sentence(error.cause))
            self._idle.append(worker)
        except RayError as error:
            ray.kill(worker)
            result = self._losses.after(trial, cause_of_death(str(error)))
        if isinstance(result, Trial):
            self._waiting.appendleft(result)
        else:
            self._source.complete(trial, result)
