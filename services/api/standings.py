"""How well a search does so far: its full network, and the best trial of each arm that keeps within the budgets."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from automl_prune.loop.arms import CONTROLS, SEARCH
from automl_prune.loop.job import SearchJob, StoredTrial
from automl_prune.loop.ports import Store
from automl_prune.pareto import non_dominated
from automl_prune.problem import Objective
from automl_prune.trial import TrialState

BASE = "base"
ARMS = (SEARCH, *CONTROLS)
"""The arms whose trials compete; together they are the evaluations that were ordered."""

Bounds = tuple[tuple[str, float, float], ...]


class Standings:
    """Best trials by arm, remembered for as long as no further trial completes.

    A trial has only one outcome, ever, so a search and its number of complete trials name the set that was compared.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered = lru_cache(maxsize=1024)(self._best)

    def best_by_arm(self, job: SearchJob, progress: Mapping[str, Mapping[str, int]]) -> dict[str, StoredTrial]:
        """The best trial of each arm that has one, and the full network's as ``base``, which no budget binds.

        ``progress`` counts trials by arm and state.
        """
        found = {}
        for arm in (BASE, *ARMS):
            complete = progress.get(arm, {}).get(TrialState.COMPLETE, 0)
            limits = () if arm == BASE else bounds(job)
            if complete and (best := self._remembered(job.id, arm, complete, objective(job), limits)):
                found[arm] = best
        return found

    def _best(self, search_id: str, arm: str, complete: int, aim: Objective, limits: Bounds) -> StoredTrial | None:
        within = [t for t in scored(self._store, search_id, arm, [aim.metric]) if is_within(t.trial.metrics, limits)]
        return min(within, key=lambda t: (_loss(t, aim), t.trial.number), default=None)


def objective(job: SearchJob) -> Objective:
    """What the search optimises."""
    metric = str(job.spec.get("objective", "top1"))
    return Objective(metric, maximize=metric != "loss")


def bounds(job: SearchJob) -> Bounds:
    """Absolute budgets as (metric, min, max), once the driver has worked them out."""
    return tuple(
        (str(b["metric"]), float(b.get("min") or 0), float("inf") if b.get("max") is None else float(b["max"]))
        for b in job.info.get("budgets", ())
    )


def is_within(metrics: Mapping[str, float], limits: Bounds) -> bool:
    """Whether no metric that was reported breaks its budget."""
    return all(low <= metrics[metric] <= high for metric, low, high in limits if metric in metrics)


def scored(store: Store, search_id: str, arm: str, metrics: Iterable[str]) -> list[StoredTrial]:
    """An arm's complete trials that report all of ``metrics``."""
    found = store.trials(search_id, arm=arm, state=TrialState.COMPLETE)
    return [t for t in found if all(m in t.trial.metrics for m in metrics)]


def front(trials: Sequence[StoredTrial], aim: Objective, cost: str) -> list[StoredTrial]:
    """The trials that no other beats in both the objective and the cost, cheapest first."""
    if not trials:
        return []
    keep = non_dominated([[_loss(t, aim), t.trial.metrics[cost]] for t in trials])
    kept = [t for t, stays in zip(trials, keep, strict=True) if stays]
    return sorted(kept, key=lambda t: (t.trial.metrics[cost], t.trial.number))


def _loss(stored: StoredTrial, aim: Objective) -> float:
    value = stored.trial.metrics[aim.metric]
    return -value if aim.maximize else value
