"""Short hands for talking to a store."""

from collections.abc import Callable
from typing import Any

from automl_prune.loop.job import Artifact, SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.space import Candidate
from automl_prune.trial import Outcome, Trial, TrialState

SPEC: dict[str, Any] = {"strategy": {"name": "abc"}, "budgets": [{"metric": "macs", "max_ratio": 0.5}], "seed": 7}
SCORED = Outcome(TrialState.COMPLETE, metrics={"top1": 0.5})
UNKNOWN = "srch_00000000000000000000000000"

DRIVER_WRITES: dict[str, Callable[[Store, str, int], object]] = {
    "renew": lambda store, search, attempt: store.renew(search, attempt, lease_seconds=60),
    "set_state": lambda store, search, attempt: store.set_state(search, attempt, SearchState.RUNNING),
    "release": lambda store, search, attempt: store.release(search, attempt, reason="late"),
    "record_ask": lambda store, search, attempt: store.record_ask(search, attempt, trial(9)),
    "record_start": lambda store, search, attempt: store.record_start(search, attempt, 0),
    "record_outcome": lambda store, search, attempt: store.record_outcome(search, attempt, 0, SCORED),
    "save_snapshot": lambda store, search, attempt: store.save_snapshot(search, attempt, {"late": True}),
    "add_artifact": lambda store, search, attempt: store.add_artifact(search, attempt, Artifact("late", 1, "00")),
}
READS: dict[str, Callable[..., object]] = {
    "get_search": lambda store, search, **of: store.get_search(search, **of),
    "attempts": lambda store, search, **of: store.attempts(search, **of),
    "trials": lambda store, search, **of: store.trials(search, **of),
    "trial": lambda store, search, **of: store.trial(search, 0, **of),
    "progress": lambda store, search, **of: store.progress(search, **of),
    "artifacts": lambda store, search, **of: store.artifacts(search, **of),
    "events": lambda store, search, **of: store.events(search, **of),
}
CLIENT_WRITES: dict[str, Callable[..., object]] = {
    "update_search": lambda store, search, **of: store.update_search(search, name="new", **of),
    "request_cancel": lambda store, search, **of: store.request_cancel(search, **of),
    "request_pause": lambda store, search, **of: store.request_pause(search, **of),
    "request_resume": lambda store, search, **of: store.request_resume(search, **of),
}
CLIENT_CALLS = READS | CLIENT_WRITES


def trial(number: int, arm: str = "search") -> Trial:
    """A new trial."""
    return Trial(number, Candidate((8, 16)), arm=arm)


def add(store: Store, spec: dict[str, Any] = SPEC, **labels: str) -> str:
    """Queue a search and return its id."""
    return store.add_search(spec, name=None, labels=labels).id


def claimed(store: Store, *, lease_seconds: float = 60) -> SearchJob:
    """Claim a search that is known to be there; with ``lease_seconds=0`` its lease has run out at once."""
    job = store.claim(lease_seconds=lease_seconds)
    assert job is not None
    return job


def driven(store: Store, trials: int = 0) -> str:
    """Id of a new search, claimed as attempt 1, with that many pending trials."""
    search = add(store)
    assert claimed(store).id == search
    for number in range(trials):
        store.record_ask(search, 1, trial(number))
    return search
