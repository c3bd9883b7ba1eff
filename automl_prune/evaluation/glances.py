"""Scores of a network that is still being trained, so that a trial which lags behind others can be stopped early."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from automl_prune.trial import Glance, Outcome, Report, TrialState

EIGHTHS = (1, 2, 4)
"""Parts of the training after which a network is looked at: each time as much training is left out as was done."""
LEAST_IMAGES, MOST_IMAGES = 256, 1024
"""Limits of a glance, which is at an eighth of the select split."""


def marks(steps: int) -> dict[int, int]:
    """Steps after which a training of ``steps`` is looked at, with the eighths that are done by then."""
    found = {math.ceil(steps * eighths / 8): eighths for eighths in EIGHTHS}
    return {step: eighths for step, eighths in found.items() if 0 < step < steps}


class Glances:
    """Looks at one network while it is trained, and asks each time whether to go on.

    Args:
        report: Told every glance.
        score: Scores the network on a part of the select split.
        cost: What the trial took so far.
    """

    def __init__(
        self,
        report: Report,
        score: Callable[[nn.Module], Mapping[str, float]],
        cost: Callable[[], Mapping[str, float]],
    ) -> None:
        self._report, self._score, self._cost = report, score, cost
        self.reported: list[dict[str, Any]] = []
        self.stopped = False

    def during(self, model: nn.Module, steps: int) -> Callable[[], bool]:
        """To be asked before every step of a training of ``steps``: whether it should end there."""
        done, planned = 0, marks(steps)

        def should_stop() -> bool:
            nonlocal done
            if done in planned:
                self._look(model, planned[done], done, steps)
            done += 1
            return self.stopped

        return should_stop

    def _look(self, model: nn.Module, eighths: int, step: int, steps: int) -> None:
        scores = dict(self._score(model))
        self.reported.append({"eighths": eighths, **scores})
        self.stopped = not self._report(Glance(eighths, scores, self.outcome(f"after {step} of {steps} training steps")))

    def outcome(self, when: str) -> Outcome:
        """How the trial ends if it is stopped now; without metrics, since those of a glance are not comparable."""
        reason = f"Stopped early {when}, because others did better by then."
        return Outcome(TrialState.STOPPED, cost=self._cost(), reason=reason, details={"reported": list(self.reported)})
