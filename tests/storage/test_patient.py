"""A driver's store while its database is away: a real server that is stopped and started again."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from automl_prune.errors import LateOutcomeError, LeaseLostError, StateConflictError
from automl_prune.loop.arms import plan_arms
from automl_prune.loop.controller import Controller
from automl_prune.loop.job import Artifact, SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.memory import MemoryStore
from automl_prune.storage.patient import PatientStore
from automl_prune.storage.sql import SqlStore
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.testing.store_kit import SCORED, add, claimed, driven, trial
from automl_prune.testing.strategy import toy_problem, toy_score
from automl_prune.trial import Outcome, TrialState

Away = Callable[[], AbstractContextManager[None]]

PROBLEM = toy_problem()


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as store:
        yield store


def patient(store: Store, seconds: float = 60) -> Store:
    return cast(Store, PatientStore(store, seconds))


def test_what_a_driver_writes_waits_until_the_database_is_back(store: SqlStore, postgres_away: Away) -> None:
    search = driven(store, trials=1)
    with ThreadPoolExecutor(1) as pool:
        with postgres_away():
            with pytest.raises(OperationalError):
                store.record_start(search, 1, 0)
            written = pool.submit(patient(store).record_outcome, search, 1, 0, SCORED)
            with pytest.raises(OperationalError):
                patient(store, seconds=0.3).get_search(search)
            assert not written.done()
        assert written.result(60) == store.trial(search, 0).told_seq
    assert store.trial(search, 0).trial.state is TrialState.COMPLETE


def controller(store: Store, job: SearchJob) -> Controller:
    def make() -> Strategy:
        return STRATEGIES.get("abc").create(PROBLEM, seed=5, options={"population": 4})

    arms = plan_arms(PROBLEM, make, max_trials=30, controls=("uniform",), top_k=1, train_base=False, seed=5)
    return Controller(store, job.id, job.attempt, PROBLEM, arms)


def evaluate(store: Store, at_the_tenth: Callable[[], object] = lambda: None) -> list[int]:
    """Run the store's next search; gives back what was evaluated."""
    source, evaluated = controller(store, claimed(store, lease_seconds=60)), []
    while (one := source.next()) is not None:
        evaluated.append(one.number)
        if len(evaluated) == 10:
            at_the_tenth()
        details: dict[str, object] = {"before": {}} if one.arm in ("final", "report") else {}
        source.complete(one, Outcome(TrialState.COMPLETE, {"top1": toy_score(PROBLEM, one.candidate)}, details=details))
    return evaluated


def test_a_running_search_survives_a_restart_of_its_database(store: SqlStore, postgres_away: Away) -> None:
    undisturbed = MemoryStore()
    expected, search = add(undisturbed), add(store)
    numbers = evaluate(undisturbed)
    meet = threading.Barrier(2)  # in the middle of the tenth trial, and once the database is away
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(evaluate, patient(store), lambda: (meet.wait(60), meet.wait(60)))
        meet.wait(60)
        with postgres_away():
            meet.wait(60)
            with pytest.raises(TimeoutError):
                running.result(0.5)
        assert running.result(60) == numbers, "every candidate is evaluated, once"
    asked = [
        [(t.trial, t.asked_seq, t.told_seq) for t in s.trials(i)] for s, i in ((store, search), (undisturbed, expected))
    ]
    assert asked[0] == asked[1]
    assert store.get_search(search).attempt == 1


class Unheard:
    """A store whose first answer gets lost on the way, after the work was done."""

    def __init__(self, store: Store) -> None:
        self.store, self.calls = store, 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            answer = getattr(self.store, name)(*args, **options)
            self.calls += 1
            if self.calls == 1:
                raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
            return answer

        return call


@pytest.mark.parametrize(
    "call",
    [
        lambda store, search: store.record_ask(search, 1, trial(1)),
        lambda store, search: store.record_outcome(search, 1, 0, SCORED, trial_attempt=1),
        lambda store, search: store.set_state(search, 1, SearchState.SUCCEEDED, result={"a": 1}),
        lambda store, search: store.release(search, 1, reason="so").state,
        lambda store, search: store.add_artifact(search, 1, Artifact("a", 1, "00")),
        lambda store, search: store.save_snapshot(search, 1, {"a": 1}),
        lambda store, search: store.renew(search, 1, lease_seconds=60).state,
    ],
    ids=["record_ask", "record_outcome", "set_state", "release", "add_artifact", "save_snapshot", "renew"],
)
def test_what_was_done_although_its_answer_got_lost_counts(call: Callable[[Store, str], object]) -> None:
    heard, unheard = MemoryStore(), MemoryStore()
    searches = [driven(store, trials=1) for store in (heard, unheard)]
    assert call(heard, searches[0]) == call(patient(cast(Store, Unheard(unheard))), searches[1])
    assert left_of(heard, searches[0]) == left_of(unheard, searches[1])


def left_of(store: Store, search: str) -> tuple[object, ...]:
    job, trials = store.get_search(search), store.trials(search)
    told = [(t.trial, t.asked_seq, t.told_seq) for t in trials]
    return job.state, job.result, job.snapshot, told, store.artifacts(search), [e.data for e in store.events(search)]


def test_a_refusal_stays_a_refusal() -> None:
    store = MemoryStore()
    search = driven(store, trials=2)
    with pytest.raises(StateConflictError, match="Trial 0"):
        patient(store).record_ask(search, 1, trial(0, arm="other"))
    with pytest.raises(LeaseLostError):
        patient(store).record_outcome(search, 2, 0, SCORED)
    store.record_start(search, 1, 1)
    store.record_start(search, 1, 1)
    with pytest.raises(LateOutcomeError):
        patient(store).record_outcome(search, 1, 1, SCORED, trial_attempt=1)
    began = time.monotonic()
    with pytest.raises(ValueError, match="terminal"):
        patient(store).record_outcome(search, 1, 0, Outcome(TrialState.RUNNING))
    assert time.monotonic() - began < 20, "nobody waits for what will never be right"
