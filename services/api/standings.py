"""How well a search does so far: its full network, the best trial of each arm, and what trades off against what."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from anyio import CapacityLimiter

from automl_prune.loop.arms import CONTROLS
from automl_prune.loop.job import SearchJob, StoredTrial
from automl_prune.loop.ports import Store
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.loop.standing import objective as objective_of
from automl_prune.pareto import non_dominated
from automl_prune.problem import Objective
from automl_prune.trial import TrialState

_REMEMBERED = 4096
_FRONTS = 4
ARMS = (SEARCH, *CONTROLS)
"""The arms whose trials compete; together they are the evaluations that were ordered."""


class Standings:
    """Best trials and fronts by arm, remembered for as long as they hold.

    A trial has only one outcome, ever: so a best trial's number names all there is to say about it, and a search and its
    number of complete trials name the set that a front was made of.

    Attributes:
        threads: For fronts, of which one is made at a time: however many are asked for, other requests find threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.threads = CapacityLimiter(_FRONTS)
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._trials: OrderedDict[tuple[str, int], StoredTrial] = OrderedDict()
        self._front = lru_cache(maxsize=256)(self._make_front)

    def best_by_arm(self, job: SearchJob) -> dict[str, StoredTrial]:
        """The best trial within the budgets of each arm that has one, and the full network's as ``base``."""
        return self.best_of([job])[job.id]

    def best_of(self, jobs: Sequence[SearchJob]) -> dict[str, dict[str, StoredTrial]]:
        """The same of several searches, by id, for which the store is asked once."""
        keys = {(job.id, arm): (job.id, job.best[arm].number) for job in jobs for arm in (BASE, *ARMS) if arm in job.best}
        known = self._remembered(set(keys.values()))
        best: dict[str, dict[str, StoredTrial]] = {job.id: {} for job in jobs}
        for (search_id, arm), key in keys.items():
            best[search_id][arm] = known[key]
        return best

    def _remembered(self, keys: set[tuple[str, int]]) -> dict[tuple[str, int], StoredTrial]:
        with self._lock:
            known = {key: self._trials[key] for key in keys if key in self._trials}
        fresh = self._store.trials_by_key(keys - known.keys()) if len(known) < len(keys) else {}
        found = known | fresh
        with self._lock:
            for key, trial in found.items():
                self._trials[key] = trial
                self._trials.move_to_end(key)
            while len(self._trials) > max(_REMEMBERED, len(found)):
                self._trials.popitem(last=False)
        return found

    def fronts(
        self, job: SearchJob, costs: tuple[str, ...], progress: Mapping[str, Mapping[str, int]]
    ) -> dict[str, list[StoredTrial]]:
        """The trade-off between the objective and costs by arm; ``progress`` counts trials by arm and state."""
        aim = objective(job)
        found: dict[str, list[StoredTrial]] = {}
        for arm in ARMS:
            complete = progress.get(arm, {}).get(TrialState.COMPLETE, 0)
            with self._one_at_a_time:  # whoever asks for the same meanwhile finds it remembered
                found[arm] = list(self._front(job.id, arm, complete, aim, costs)) if complete else []
        return found

    def _make_front(
        self, search_id: str, arm: str, complete: int, aim: Objective, costs: tuple[str, ...]
    ) -> tuple[StoredTrial, ...]:
        return tuple(front(scored(self._store, search_id, arm, [aim.metric, *costs]), aim, costs))


def objective(job: SearchJob) -> Objective:
    """What the search optimises."""
    return objective_of(job.spec)


def scored(store: Store, search_id: str, arm: str, metrics: Iterable[str]) -> list[StoredTrial]:
    """An arm's complete trials that report all of ``metrics``."""
    found = store.trials(search_id, arm=arm, state=TrialState.COMPLETE)
    return [t for t in found if all(m in t.trial.metrics for m in metrics)]


def front(trials: Sequence[StoredTrial], aim: Objective, costs: Sequence[str]) -> list[StoredTrial]:
    """The trials that no other beats in the objective and all costs, cheapest first."""
    if not trials:
        return []
    paid = [[t.trial.metrics[cost] for cost in costs] for t in trials]
    keep = non_dominated([[_loss(t, aim), *paid[i]] for i, t in enumerate(trials)])
    kept = [(paid[i], t.trial.number, t) for i, t in enumerate(trials) if keep[i]]
    return [t for *_, t in sorted(kept, key=lambda row: row[:2])]


def _loss(stored: StoredTrial, aim: Objective) -> float:
    value = stored.trial.metrics[aim.metric]
    return -value if aim.maximize else value
