"""What every executor does alike: build an evaluator, run it without ever raising, and decide what follows a lost worker."""

import json
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from automl_prune.errors import EvaluationError
from automl_prune.loop.ports import TrialSource
from automl_prune.messages import is_storage_full
from automl_prune.trial import NO_ROOM, Evaluator, Outcome, Trial, TrialState

PAUSE = 0.05
"""Seconds between two looks at a source that has nothing to start."""

CANCELLED = Outcome(TrialState.CANCELLED, reason="The search was stopped while the trial was being evaluated.")

logger = logging.getLogger(__name__)


def sentence(error: BaseException) -> str:
    """An exception's class and message on one line of at most 300 characters, without its traceback."""
    message = " ".join(str(error).split())
    return clip(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def clip(text: str) -> str:
    """The first 300 characters."""
    return text if len(text) <= 300 else text[:299] + "…"


def build_evaluator(make_evaluator: Callable[[], Evaluator]) -> Evaluator:
    """Call the factory; raises EvaluationError in one sentence when it raises."""
    try:
        return make_evaluator()
    except Exception as error:
        logger.exception("The evaluator could not be built.")
        raise EvaluationError(f"The evaluator could not be built: {sentence(error)}") from error


def evaluate_safely(evaluator: Evaluator, trial: Trial) -> Outcome:
    """Evaluate a trial; whatever goes wrong becomes a failed outcome with its reason, and the traceback is logged.

    Adds ``seconds`` (wall) and ``cpu_seconds`` (this process, all threads) to the cost unless the evaluator gave them.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        outcome = _checked(evaluator(trial))
    except Exception as error:
        logger.exception("%s failed.", trial.name)
        outcome = Outcome.failed(sentence(error))
        if is_storage_full(error):
            outcome = replace(outcome, details={NO_ROOM: True})
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return replace(outcome, cost={**spent, **outcome.cost})


class Losses:
    """Workers that were lost in this run, by the trial they were at.

    Args:
        source: Gives trials their next attempt.
        most: Of one trial, after which it fails.
    """

    def __init__(self, source: TrialSource, most: int) -> None:
        self._source, self._most = source, most
        self._counts: Counter[int] = Counter()

    def after(self, trial: Trial, cause: str) -> Trial | Outcome:
        """What follows when the worker of a trial died: the trial's next attempt, or its failure after the last one."""
        self._counts[trial.number] += 1
        if self._counts[trial.number] < self._most:
            return self._source.retry(trial, cause)
        return Outcome.failed(f"{trial.attempt} attempts, last worker died: {cause}")


def prepare_worker(cpu: float, gpu: float) -> None:
    """Give this worker process its log format, its share of threads, and no GPU that it was not given."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ["OMP_NUM_THREADS"] = str(threads(cpu))
    if not gpu:  # Ray names the GPUs of a worker that has some, and leaves all of them to one that has none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def limit_torch(cpu: float) -> None:
    """Hold torch to the worker's share of the processor, if the evaluator brought torch in."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads(cpu))


def threads(cpu: float) -> int:
    """Threads for a worker that was given ``cpu`` processors."""
    return max(1, int(cpu))


def _checked(outcome: object) -> Outcome:
    """The outcome with plain finite floats as numbers; raises or turns it into a failure where that is not so."""
    if not isinstance(outcome, Outcome):
        raise EvaluationError(f"The evaluator returned {type(outcome).__name__}; it should return an Outcome.")
    if not outcome.state.is_terminal:
        raise EvaluationError(f"The evaluator returned the state {outcome.state.value!r}, which is not an end.")
    # Whoever stores outcomes writes JSON: what cannot be written there fails this trial rather than the search.
    json.dumps([dict(outcome.details), dict(outcome.artifacts), outcome.reason], allow_nan=False)
    metrics, cost = _floats(outcome.metrics), _floats(outcome.cost)
    if wild := [f"{name} is {value}" for name, value in {**cost, **metrics}.items() if not math.isfinite(value)]:
        kept = {name: value for name, value in cost.items() if math.isfinite(value)}
        return Outcome.failed(outcome.reason or f"Not a finite number: {', '.join(wild)}.", cost=kept)
    return replace(outcome, metrics=metrics, cost=cost)


def _floats(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}
