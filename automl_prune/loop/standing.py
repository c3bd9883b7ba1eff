"""Which of a search's trials is the best so far; known from the order and from what its driver found out."""

from collections.abc import Mapping
from typing import Any

from automl_prune.latency.cost import LATENCY, metric_on
from automl_prune.latency.devices import LOCAL
from automl_prune.loop.job import Best
from automl_prune.problem import Objective
from automl_prune.trial import Outcome, TrialState

BASE, SEARCH = "base", "search"
"""The arms of the full network, which no budget binds, and of the ordered strategy."""

Bounds = tuple[tuple[str, float, float], ...]


def objective(spec: Mapping[str, Any]) -> Objective:
    """What a search optimises."""
    metric = str(spec.get("objective", "top1"))
    return Objective(metric, maximize=metric != "loss")


def cost_name(budget: Mapping[str, Any]) -> str:
    """The name under which trials report what a budget bounds."""
    metric = str(budget["metric"])
    return metric_on(budget.get("device") or LOCAL) if metric == LATENCY else metric


def bounds(info: Mapping[str, Any]) -> Bounds:
    """Absolute budgets as (metric, min, max), once the driver has worked them out."""
    return tuple(
        (
            cost_name(b),
            float(b.get("min") or 0),
            float("inf") if b.get("max") is None else float(b["max"]),
        )
        for b in info.get("budgets", ())
    )


def is_within(metrics: Mapping[str, float], limits: Bounds) -> bool:
    """Whether no metric that was reported breaks its budget."""
    return all(low <= metrics[metric] <= high for metric, low, high in limits if metric in metrics)


def best_after(
    spec: Mapping[str, Any], info: Mapping[str, Any], best: Mapping[str, Best], number: int, arm: str, outcome: Outcome
) -> dict[str, Best] | None:
    """The best trials by arm after one more has ended; None when nothing changes. Of equals the first asked stays."""
    aim = objective(spec)
    if outcome.state is not TrialState.COMPLETE or aim.metric not in outcome.metrics:
        return None
    if arm != BASE and not is_within(outcome.metrics, bounds(info)):
        return None
    new = Best(number, float(outcome.metrics[aim.metric]))
    return {**best, arm: new} if _beats(new, best.get(arm), aim) else None


def _beats(new: Best, old: Best | None, aim: Objective) -> bool:
    if old is None or new.value == old.value:
        return old is None or new.number < old.number
    return (new.value > old.value) is aim.maximize
