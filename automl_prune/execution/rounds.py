"""An evaluation that can be asked for its glances one after the other, and ended at any of them."""

import queue
import threading
from functools import partial

from automl_prune.execution.common import evaluate_safely, limit_torch
from automl_prune.trial import Glance, Outcome, ReportingEvaluator, Trial


class Rounds:
    """Runs in a thread that waits at every glance until it is asked for the next one.

    Args:
        evaluator: Reports glances.
        trial: What is evaluated.
        cpu: Processors of the worker.
    """

    def __init__(self, evaluator: ReportingEvaluator, trial: Trial, cpu: float) -> None:
        self._said: queue.SimpleQueue[Glance | Outcome] = queue.SimpleQueue()
        self._may_go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(evaluator, trial, cpu), daemon=True)

    def next(self) -> Glance | Outcome:
        """The next glance, or what the trial ended with."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._may_go_on.put(True)
        return self._said.get()

    def end(self) -> None:
        """Let a trial that waits at a glance go no further."""
        self._may_go_on.put(False)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self, evaluator: ReportingEvaluator, trial: Trial, cpu: float) -> None:
        limit_torch(cpu)  # holds for one thread
        self._said.put(evaluate_safely(partial(evaluator, report=self._report), trial))

    def _report(self, glance: Glance) -> bool:
        self._said.put(glance)
        return self._may_go_on.get()
