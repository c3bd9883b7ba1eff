"""One process, one evaluator, one trial after the other; no Ray."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from automl_prune.execution.common import PAUSE, build_evaluator, evaluate_safely
from automl_prune.loop.ports import TrialSource
from automl_prune.trial import Evaluator


class InlineExecutor:
    """Evaluates in the calling process; a stop is noticed between two trials, so none is ever cancelled half-way."""

    def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        """Drive the source to its end; raises EvaluationError when the evaluator cannot be built."""
        if source.finished or source.stopping:
            return
        evaluator = build_evaluator(make_evaluator)
        while not (source.finished or source.stopping):
            trial = source.next()
            if trial is not None:
                source.complete(trial, evaluate_safely(evaluator, trial))
            elif not source.finished:
                time.sleep(PAUSE)

    def describe(self) -> Mapping[str, Any]:
        """Its kind; there is nothing to watch."""
        return {"kind": "inline", "workers": 1, "dashboard": None, "actors": []}
