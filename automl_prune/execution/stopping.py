"""Which trials lag behind: Ray Tune's own schedulers, fed with glances at trials that are still being trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

Rule = Literal["asha", "median"]
TIME, SCORE = "eighths", "glance"
"""Names in a Tune result: how much of its training a trial has behind it, and how well it does."""

_WHOLE = 8
_ENOUGH = 3
"""Trials that the median is taken of at least."""


@dataclass(frozen=True)
class EarlyStop:
    """How trials are stopped early.

    Attributes:
        rule: asha keeps the better half at 1/8, 1/4 and 1/2 of the training; median, what beats the median of the others.
        metric: What a glance is judged by.
        maximize: Its direction.
        seen: Of trials that ended earlier, what each reported: rows with the metric and ``eighths``.
    """

    rule: Rule
    metric: str
    maximize: bool
    seen: Sequence[Sequence[Mapping[str, float]]] = ()

    def scheduler(self) -> "Scheduler":
        """A scheduler that knows what was seen."""
        return Scheduler(self)


@dataclass(frozen=True)
class _Past:
    """Stands in for a trial that ended before this Tune run began."""

    trial_id: str


class Scheduler(FIFOScheduler):
    """Tune's scheduler for glances alone: results without one are of trials that nobody compares."""

    def __init__(self, order: EarlyStop) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule = _rule(order)
        for i, rows in enumerate(order.seen):
            past = _Past(f"earlier-{i}")
            self._rule.on_trial_add(None, past)
            for row in rows:
                self._rule.on_trial_result(None, past, {TIME: row["eighths"], SCORE: row[order.metric]})

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Take note of a trial."""
        self._rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Whether a trial goes on; it is never paused, because that would need a checkpoint."""
        if SCORE not in result:
            return TrialScheduler.CONTINUE
        said = self._rule.on_trial_result(tune_controller, trial, result)
        return TrialScheduler.STOP if said == TrialScheduler.STOP else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Nothing: all glances were compared when they came."""


def _rule(order: EarlyStop) -> Any:
    mode = "max" if order.maximize else "min"
    if order.rule == "asha":
        return ASHAScheduler(time_attr=TIME, metric=SCORE, mode=mode, grace_period=1, reduction_factor=2, max_t=_WHOLE)
    return MedianStoppingRule(
        time_attr=TIME,
        metric=SCORE,
        mode=mode,
        grace_period=1,
        min_samples_required=_ENOUGH,
        min_time_slice=math.inf,  # type: ignore[arg-type]  # it never yields: that would be a pause
    )
