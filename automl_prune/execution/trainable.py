"""The worker's side of Ray Tune: the trainable, and how trials and outcomes travel to it and back."""

import json
import logging
import os
from collections.abc import Callable
from typing import Any, cast

import ray
from ray import tune

from automl_prune.errors import EvaluationError, WorkersLostError
from automl_prune.execution.cluster import receive_evaluator
from automl_prune.execution.common import evaluate_safely
from automl_prune.execution.rounds import Rounds
from automl_prune.execution.stopping import SCORE, TIME
from automl_prune.space import Candidate
from automl_prune.trial import Evaluator, Glance, Outcome, ReportingEvaluator, Trial, TrialState

logger = logging.getLogger(__name__)


class PruneTrial(tune.Trainable):
    """The actor: builds its evaluator once, then is reset to one trial after the other.

    A trial is a single step; where trials may be stopped early, one for each glance and one for its end.
    """

    label = "search"
    cpu, gpu = 1.0, 0.0
    metric: str | None = None
    factory: "ray.ObjectRef[Any]"

    @classmethod
    def of(
        cls, label: str, cpu: float, gpu: float, make_evaluator: Callable[[], Evaluator], metric: str | None = None
    ) -> type["PruneTrial"]:
        """The class for one search; Tune's own wrappers would show in the dashboard under their name.

        With a ``metric``, that of glances is reported while a trial is trained.
        """
        made = {"label": label, "cpu": cpu, "gpu": gpu, "metric": metric, "factory": ray.put(make_evaluator)}
        return type(cls.__name__, (cls,), {"__module__": __name__, **made})

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What one actor occupies."""
        return tune.PlacementGroupFactory([{"CPU": cls.cpu, "GPU": cls.gpu}])

    def setup(self, config: dict[str, Any]) -> None:
        """Build the evaluator; a reason is kept and handed back rather than raised, or Tune would try for ever."""
        self._trial, self._broken, self._lost = config["trial"], None, False
        self._rounds: Rounds | None = None
        try:
            self._evaluator = receive_evaluator(self.factory, self.cpu, self.gpu)
        except (EvaluationError, WorkersLostError) as error:
            self._broken, self._lost = str(error), isinstance(error, WorkersLostError)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.cleanup()
        self._trial = new_config["trial"]
        return True

    def cleanup(self) -> None:
        """Leave the trial where it is."""
        if self._rounds:
            self._rounds.end()
        self._rounds = None

    def step(self) -> dict[str, Any]:
        """Evaluate the trial; user errors come back as failed outcomes, so that what raises here is Ray alone."""
        result = {"done": True, "worker": repr(self), "broken": self._broken, "lost": self._lost}
        if self._broken:
            return result
        said = self._next()
        if isinstance(said, Glance):
            found = {"done": False, TIME: said.eighths, SCORE: said.scores[self.metric or ""]}
            return {**result, **found, "outcome": encode_outcome(said.outcome)}
        return {**result, "outcome": encode_outcome(said)}

    def _next(self) -> Glance | Outcome:
        trial = decode_trial(self._trial)
        if self._rounds is None:
            logger.info("%s, attempt %d", trial.name, trial.attempt)
            if self.metric is None:
                return evaluate_safely(self._evaluator, trial)
            self._rounds = Rounds(cast(ReportingEvaluator, self._evaluator), trial, self.cpu)
        return self._rounds.next()

    def __repr__(self) -> str:
        return f"PruneTrial[search-{self.label}-w{os.getpid()}]"


def encode_trial(trial: Trial) -> str:
    """A trial as JSON: what travels as a string stays one in Tune's files."""
    widths = [int(width) for width in trial.candidate.widths]
    return json.dumps({**vars(trial), "candidate": widths}, default=dict)


def decode_trial(text: str) -> Trial:
    """Read :func:`encode_trial`'s form."""
    data = json.loads(text)
    return Trial(**{**data, "candidate": Candidate(tuple(data["candidate"])), "state": TrialState(data["state"])})


def encode_outcome(outcome: Outcome) -> str:
    """An outcome as JSON."""
    return json.dumps(vars(outcome), default=dict)


def decode_outcome(text: str) -> Outcome:
    """Read :func:`encode_outcome`'s form."""
    data = json.loads(text)
    return Outcome(**{**data, "state": TrialState(data["state"])})
