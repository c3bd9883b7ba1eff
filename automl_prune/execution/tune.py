"""Ray Tune: its controller asks our source for trials and tells it their outcomes; actors are reused between trials.

Costs some 20 to 100 ms per trial, which suits trials that train. Tune's own state lives in a folder that is removed at
the end: the store is the truth, and a search is resumed from there.
"""

import contextlib
import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from automl_prune.errors import EvaluationError, WorkersLostError
from automl_prune.execution.cluster import LOCAL, cause_of_death, current, environment, joined, short_id
from automl_prune.execution.common import CANCELLED, PAUSE, Losses
from automl_prune.execution.stopping import SCORE, EarlyStop
from automl_prune.execution.trainable import PruneTrial, decode_outcome, encode_trial
from automl_prune.loop.ports import TrialSource
from automl_prune.trial import Evaluator, Trial

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no boxes on stdout
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean elsewhere
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files per trial that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl+C is the program's
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # snapshots nobody restores
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a lost worker is one line in our log, not a traceback
}


class TuneExecutor:
    """Evaluates as trials of a Ray Tune run; two of them cannot run in one process at the same time.

    Args:
        search_id: Names the run and, with its process id, each actor: ``PruneTrial[search-<its last characters>-w<pid>]``.
        workers: Trials at the same time.
        cpu: Processors of one worker; also its number of torch threads, at least one.
        gpu: GPUs of one worker; fractions share one.
        address: Of Ray, used when the process is not connected yet (see :func:`~.cluster.connect`).
        dashboard: Whether a Ray started for that has one.
        max_attempts: Workers that one trial may lose before it fails.
        patience: Seconds to wait for a machine that is large enough, where one may still come.
        early_stop: Stops trials that lag behind; evaluators must then be a :class:`~automl_prune.trial.ReportingEvaluator`.
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
        early_stop: EarlyStop | None = None,
    ) -> None:
        self.search_id, self.workers, self.cpu, self.gpu = search_id, workers, cpu, gpu
        self.address, self.dashboard, self.max_attempts = address, dashboard, max_attempts
        self.early_stop, self.patience = early_stop, patience
        self._names: dict[str, None] = {}

    def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        """Drive the source to its end.

        Raises:
            EvaluationError: The evaluator cannot be built.
            NotReadyError: There was no machine for a worker.
            WorkersLostError: What was sent to a worker was lost.
        """
        if source.finished or source.stopping:
            return
        talk = _Talk(source, self.max_attempts, self._names)
        with (
            joined(
                self.address,
                self.workers,
                self.cpu,
                self.gpu,
                dashboard=self.dashboard,
                source=source,
                patience=self.patience,
            ),
            environment(SETTINGS),
            _hush(),
        ):
            try:
                self._fit(talk, make_evaluator)
            finally:
                talk.remove_files()
        talk.end()

    def describe(self) -> Mapping[str, Any]:
        """Its kind, its page in the dashboard while connected, and how its actors have been shown there so far."""
        dashboard = connection.page if (connection := current()) else None
        return {"kind": "tune", "workers": self.workers, "dashboard": dashboard, "actors": list(self._names)}

    def _fit(self, talk: "_Talk", make_evaluator: Callable[[], Evaluator]) -> None:
        early = self.early_stop
        metric = early.metric if early else None
        with tempfile.TemporaryDirectory(prefix="ap-tune-", ignore_cleanup_errors=True) as folder:
            tune.Tuner(
                PruneTrial.of(short_id(self.search_id), self.cpu, self.gpu, make_evaluator, metric),
                tune_config=tune.TuneConfig(
                    search_alg=_Ask(talk),
                    scheduler=early.scheduler() if early else None,
                    num_samples=-1,
                    max_concurrent_trials=self.workers,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=Path(folder).name,
                    storage_path=folder,
                    stop=_Stop(talk),
                    callbacks=[_Watch(talk)],
                    failure_config=tune.FailureConfig(max_failures=0),  # lost trials are asked again, with their attempt
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            ).fit()


class _Talk:
    """The conversation between Tune and a source. Tune swallows what is raised into it, so errors wait for the end."""

    def __init__(self, source: TrialSource, max_attempts: int, names: dict[str, None]) -> None:
        self._source, self._losses, self._names = source, Losses(source, max_attempts), names
        self._flying: dict[str, Trial] = {}
        self._again: deque[Trial] = deque()
        self._error: Exception | None = None
        self.workers: dict[str, Any] = {}
        self.files: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its parts into its folder; a live conversation has no place there."""
        return {}

    @property
    def over(self) -> bool:
        """Whether Tune should end now, trials in flight included."""
        with self._keeping_errors():
            return self._error is not None or self._source.stopping
        return True

    def ask(self, tune_id: str) -> dict[str, str] | str | None:
        """The next trial, or None to wait for trials in flight, or that there will be none.

        With nothing in flight it waits here: Tune would look again only every second, and at its stopper not at all.
        """
        with self._keeping_errors():
            while not self.over:
                trial = self._again.popleft() if self._again else self._source.next()
                if trial is not None:
                    self._flying[tune_id] = trial
                    return {"name": trial.name, "trial": encode_trial(trial)}
                if self._flying:
                    return None
                if self._source.finished:
                    break
                time.sleep(PAUSE)
        return Searcher.FINISHED

    def tell(self, tune_id: str, result: Mapping[str, Any]) -> None:
        """Hand a worker's result to the source; a worker without an evaluator ends the run.

        What is cut off because the run is over was not stopped by its scores.
        """
        self._names[result["worker"]] = None
        if SCORE in result and self.over:
            return
        with self._keeping_errors():
            if result["broken"]:
                raise (WorkersLostError if result["lost"] else EvaluationError)(result["broken"])
            self._source.complete(self._land(tune_id), decode_outcome(result["outcome"]))

    def lose(self, tune_id: str, cause: str) -> None:
        """Ask for the trial again or let it fail; once the run is over, leave it to be cancelled."""
        if self.over or tune_id not in self._flying:
            return
        with self._keeping_errors():
            trial = self._land(tune_id)
            following = self._losses.after(trial, cause)
            if isinstance(following, Trial):
                self._again.append(following)
            else:
                self._source.complete(trial, following)

    def kill_workers(self) -> None:
        """Kill the workers of trials in flight: Tune would wait ten seconds for them."""
        for tune_id in self._flying.keys() & self.workers.keys():
            ray.kill(self.workers[tune_id])

    def end(self) -> None:
        """Cancel what is still in flight and raise what was kept; a source that failed is told nothing more."""
        if self._error is None or isinstance(self._error, EvaluationError):
            for trial in (*self._flying.values(), *self._again):
                self._source.complete(trial, CANCELLED)
        if self._error:
            raise self._error

    def _land(self, tune_id: str) -> Trial:
        self.workers.pop(tune_id, None)
        return self._flying.pop(tune_id)

    def remove_files(self) -> None:
        """Remove what Tune wrote below Ray's own folder."""
        if self.files:
            shutil.rmtree(self.files, ignore_errors=True)

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._error = self._error or error


class _Ask(Searcher):
    """Tune's side of asking and telling; its method and argument names are part of Tune's contract."""

    def __init__(self, talk: _Talk) -> None:
        super().__init__()
        self._talk = talk

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:  # type: ignore[override]  # the stub forgets FINISHED
        return self._talk.ask(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and not error:  # of errors _Watch hears, with their cause
            self._talk.tell(trial_id, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is resumed from the store."""


class _Stop(tune.Stopper):
    def __init__(self, talk: _Talk) -> None:
        self._talk = talk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._talk.over:
            return False
        self._talk.kill_workers()
        return True


class _Watch(tune.Callback):
    """Hears which worker a trial got, and why one was lost."""

    def __init__(self, talk: _Talk) -> None:
        self._talk = talk

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._talk.files = Path(trial.local_experiment_path).parent
        self._talk.workers[trial.trial_id] = trial.temporary_state.ray_actor

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        _, _, report = Path(trial.error_file).read_text().partition("\n")
        self._talk.lose(trial.trial_id, cause_of_death(report))


@contextlib.contextmanager
def _hush() -> Iterator[None]:
    """Keep Tune from reporting, one line per trial, that there are no files of the loggers switched off above."""
    loggers = [logging.getLogger(f"ray.tune.{name}") for name in ("tune", "analysis.experiment_analysis")]
    levels = [logger.level for logger in loggers]
    for quiet in loggers:
        quiet.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for loud, level in zip(loggers, levels, strict=True):
            loud.setLevel(level)


def _name(trial: TuneTrial) -> str:
    return f"{trial.config['name']}-{trial.trial_id}"
