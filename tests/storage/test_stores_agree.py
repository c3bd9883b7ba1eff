"""Whatever is done, a store in memory and a store in a database answer the same."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from automl_prune.errors import AutomlPruneError
from automl_prune.loop.job import Artifact, SearchJob, SearchState, StoredTrial
from automl_prune.loop.ports import Store
from automl_prune.storage.memory import MemoryStore
from automl_prune.storage.sql import SqlStore
from automl_prune.testing.store_kit import SCORED, trial
from automl_prune.trial import Outcome

Step = tuple[str, int, int, int]  # what, which search, as which attempt, which trial
SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)

CALLS: dict[str, Callable[[Store, str, int, int], object]] = {
    "claim": lambda store, search, attempt, n: store.claim(lease_seconds=60 * (n % 2)),
    "renew": lambda store, search, attempt, n: store.renew(search, attempt, lease_seconds=60 * (n % 2)),
    "run": lambda store, search, attempt, n: store.set_state(search, attempt, SearchState.RUNNING, info={str(n): n}),
    "end": lambda store, search, attempt, n: store.set_state(search, attempt, SearchState.FAILED, reason="why"),
    "release": lambda store, search, attempt, n: store.release(search, attempt, reason="lost"),
    "cancel": lambda store, search, attempt, n: store.request_cancel(search),
    "ask": lambda store, search, attempt, n: store.record_ask(search, attempt, trial(n, arm=("a", "b")[n % 2])),
    "start": lambda store, search, attempt, n: store.record_start(search, attempt, n),
    "tell": lambda store, search, attempt, n: store.record_outcome(search, attempt, n, (SCORED, Outcome.failed("x"))[n % 2]),
    "snapshot": lambda store, search, attempt, n: store.save_snapshot(search, attempt, {"n": n}),
    "artifact": lambda store, search, attempt, n: store.add_artifact(search, attempt, Artifact(str(n % 2), n, "00")),
}
# searches are claimed often and their trials touched often, or nothing interesting happens
STEPS = st.tuples(
    st.sampled_from([*CALLS, *["claim", "ask", "start", "tell"] * 3]),
    st.integers(0, 1),
    st.sampled_from([1, 1, 1, 2, 2, 3]),
    st.integers(0, 3),
)


def answers(store: Store, steps: list[Step]) -> list[Any]:
    """Every answer, the search after it, and all that is there in the end, with ids and times made comparable."""
    ids = [store.add_search({"n": n}, name=None, labels={}).id for n in range(2)]
    seen: list[Any] = []
    for call, which, attempt, number in steps:
        try:
            answer = CALLS[call](store, ids[which], attempt, number)
        except AutomlPruneError as error:
            answer = type(error), str(error).replace(ids[which], "it")
        seen.append((call, comparable(answer, ids), comparable(store.get_search(ids[which]), ids)))
    for search in ids:
        seen.append([comparable(stored, ids) for stored in store.trials(search)])
        seen.append((store.progress(search), store.artifacts(search)))
    return seen


def comparable(answer: object, ids: list[str]) -> object:
    if isinstance(answer, SearchJob):
        times = ("created_at", "updated_at", "lease_expires_at", "started_at", "finished_at")
        flat: Any = {name: SOME_TIME for name in times if getattr(answer, name) is not None}
        return replace(answer, id=str(ids.index(answer.id)), **flat)
    if isinstance(answer, StoredTrial):
        return replace(answer, asked_at=SOME_TIME, ended_at=SOME_TIME if answer.ended_at else None)
    return answer


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=10, max_size=30))
def test_memory_and_database_agree(new_sqlite: Callable[[], str], steps: list[Step]) -> None:
    with closing(SqlStore(new_sqlite())) as store:
        assert answers(store, steps) == answers(MemoryStore(), steps)
