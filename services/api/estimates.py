"""How long an order would take, from what evaluations like its own took before."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from automl_prune.errors import UserError
from automl_prune.evaluation.recipe import Recipe
from automl_prune.loop.job import SearchJob
from automl_prune.loop.plan import evaluations, read_recipe
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import SEARCH
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import TrialState
from services.capacity import slots
from services.settings import Settings

FEWEST = 3
"""Evaluations that an estimate rests on at least."""
_SEARCHES, _TRIALS = 50, 200
LEAVES_OUT = "training the full network, timing devices, recovery and the report"


def estimate(spec: SearchSpec, store: Store, settings: Settings) -> dict[str, Any]:
    """Seconds that the evaluations of an order would take, or the reason why nobody knows.

    Args:
        spec: The order.
        store: With what the one who asks may see.
        settings: Of the service.

    Returns:
        ``seconds`` (None: unknown, for ``reason``), ``seconds_per_evaluation``, ``at_once``, what it ``leaves_out``, and its
        ``basis`` in words.
    """
    at_once = slots(spec, settings)
    told = {"at_once": at_once, "leaves_out": LEAVES_OUT}
    for job in store.list_searches(strategy=spec.strategy.name, limit=_SEARCHES):
        if not _is_alike(spec, job):
            continue
        found = store.trials(job.id, arm=SEARCH, state=TrialState.COMPLETE, limit=_TRIALS)
        took = [t.trial.outcome.cost["seconds"] for t in found if t.trial.outcome and "seconds" in t.trial.outcome.cost]
        if len(took) >= FEWEST:
            each = median(took)
            basis = f"the median of {len(took)} evaluations of {job.id}: same network, dataset, recipe and resources"
            return told | {
                "seconds": _seconds(spec, each / at_once),
                "seconds_per_evaluation": each,
                "basis": basis,
                "reason": None,
            }
    reason = (
        f"None of your last {_SEARCHES} searches by {spec.strategy.name!r} has {FEWEST} evaluations on the same network, "
        f"dataset, recipe and resources yet."
    )
    return told | {"seconds": None, "seconds_per_evaluation": None, "basis": None, "reason": reason}


def _seconds(spec: SearchSpec, pace: float) -> float:
    searching = min(spec.trials.max * pace, spec.trials.max_seconds or float("inf"))
    return searching + (evaluations(spec) - spec.trials.max) * pace


def _is_alike(spec: SearchSpec, job: SearchJob) -> bool:
    """Whether one evaluation of a search is as much work as one of the order, but for the widths."""
    mine = spec.model_dump(mode="json")
    if any(mine[part] != job.spec.get(part) for part in ("dataset", "resources", "objective")):
        return False
    if any(mine["search_space"][part] != job.spec["search_space"].get(part) for part in ("name", "num_classes")):
        return False
    return _recipe(mine) == _recipe(job.spec)


def _recipe(spec: Mapping[str, Any]) -> Recipe | None:
    try:
        order = SearchSpec.parse(spec)
        return read_recipe(STRATEGIES.get(order.strategy.name), order)
    except UserError:  # of an earlier release, or a plug-in that is gone
        return None
