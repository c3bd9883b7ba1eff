"""Whatever is done in whatever order, a store in memory and a store in a database answer the same, and lose nothing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from automl_prune.errors import AutomlPruneError
from automl_prune.loop.audit import AuditEntry, Origin
from automl_prune.loop.job import Artifact, Event, SearchAttempt, SearchJob, SearchState, StoredTrial, Submission, Worker
from automl_prune.loop.ports import Idempotency, QueueLimits, Store
from automl_prune.storage.memory import MemoryStore
from automl_prune.storage.sql import SqlStore
from automl_prune.testing.store_kit import trial
from automl_prune.trial import Outcome, TrialState

SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)
TENANTS = st.sampled_from(["a", "b"])
MAYBE_TENANT = st.sampled_from([None, None, None, "a", "b"])
WHICH = st.integers(0, 3)
NUMBERS = st.integers(0, 3)
# the present attempt mostly, or nothing interesting happens
LATE = st.sampled_from([0, 0, 0, 0, 1, -1])
LEASES = st.sampled_from([60, 60, 0])
SCORES = st.sampled_from([None, 0.5, 0.5, 0.7])
VERSIONS = st.sampled_from([None, None, 1, 2, 3])
WORKERS = st.sampled_from([None, Worker("w", "h", 1)])


class Stores(RuleBasedStateMachine):
    """Does everything to both stores; ids and times are made comparable."""

    def __init__(self, sql: SqlStore) -> None:
        super().__init__()
        self.memory, self.sql = MemoryStore(), sql
        self.stores: tuple[Store, Store] = (self.memory, self.sql)
        self.ids: list[tuple[str, str]] = []
        self.touched = 0
        self.outcomes: dict[tuple[int, int], Outcome] = {}

    # doing it twice

    def both(self, call: Callable[[Store, int], Any]) -> Any:
        """Make a call to each store; returns the answer, which is the same, or None where both refuse."""
        answers: list[Any] = []
        refusals: list[Any] = []
        for place, store in enumerate(self.stores):
            try:
                answers.append(self.comparable(call(store, place), place))
                refusals.append(None)
            except AutomlPruneError as error:
                answers.append(None)
                refusals.append((type(error), self.anonymous(str(error), place)))
        assert refusals[0] == refusals[1]
        assert answers[0] == answers[1]
        return answers[0]

    def of(self, which: int, call: Callable[[Store, str], Any]) -> Any:
        self.touched = which
        return self.both(lambda store, place: call(store, self.ids[which % len(self.ids)][place]))

    def drive(self, which: int, late: int, call: Callable[[Store, str, int], Any]) -> Any:
        """A call in the name of the present attempt, or of another one."""
        attempt = self.memory.get_search(self.ids[which % len(self.ids)][0]).attempt + late
        return self.of(which, lambda store, search: call(store, search, attempt))

    def anonymous(self, text: str, place: int) -> str:
        for number, ids in enumerate(self.ids):
            text = text.replace(ids[place], f"search {number}")
        return text

    def comparable(self, answer: Any, place: int) -> Any:
        if isinstance(answer, list):
            return [self.comparable(item, place) for item in answer]
        if isinstance(answer, Submission):
            return replace(answer, job=self.comparable(answer.job, place))
        if isinstance(answer, SearchJob):
            return self.timeless(replace(answer, id=self.anonymous(answer.id, place)))
        if isinstance(answer, Event):
            return self.timeless(replace(answer, search_id=self.anonymous(answer.search_id, place)))
        if isinstance(answer, AuditEntry):
            return self.timeless(replace(answer, id="", object_id=self.anonymous(answer.object_id, place)))
        if isinstance(answer, StoredTrial | SearchAttempt):
            return self.timeless(answer)
        return answer

    def timeless(self, answer: Any) -> Any:
        times = {name: SOME_TIME for name, value in vars(answer).items() if isinstance(value, datetime)}
        return replace(answer, **times)

    # what clients do

    def order(self, make: Callable[[Store], SearchJob]) -> None:
        self.ids.append((make(self.memory).id, make(self.sql).id))

    @initialize(tenant=TENANTS)
    def begin(self, tenant: str) -> None:
        self.order(lambda store: store.add_search({"n": 0}, name=None, labels={"a": "b"}, tenant=tenant))

    @precondition(lambda self: len(self.ids) < 4)
    @rule(tenant=TENANTS, priority=st.integers(-1, 1), key=st.sampled_from([None, "a", "b"]))
    def add(self, tenant: str, priority: int, key: str | None) -> None:
        told: dict[str, Any] = {"tenant": tenant, "priority": priority, "origin": Origin(key)}
        self.order(lambda store: store.add_search({"n": 1}, name="n", labels={}, **told))

    @precondition(lambda self: len(self.ids) < 4)
    @rule(tenant=TENANTS, key=st.sampled_from("kl"), fingerprint=st.sampled_from("fffg"), most=st.sampled_from([None, 1]))
    def add_once(self, tenant: str, key: str, fingerprint: str, most: int | None) -> None:
        made: list[Any] = []
        for store in self.stores:
            try:
                once = Idempotency(key, fingerprint)
                told: dict[str, Any] = {"tenant": tenant, "queue": QueueLimits(most), "origin": Origin("a")}
                made.append(store.add_search_once({}, name=None, labels={}, idempotency=once, **told))
            except AutomlPruneError as error:
                made.append((type(error), str(error)))
        if isinstance(made[0], Submission) and not made[0].replayed:
            self.ids.append((made[0].job.id, made[1].job.id))
        assert self.comparable(made[0], 0) == self.comparable(made[1], 1)

    @rule(tenant=TENANTS, key=st.sampled_from("klm"), fingerprint=st.sampled_from("fffg"))
    def ordered_before(self, tenant: str, key: str, fingerprint: str) -> None:
        self.both(lambda store, _: store.ordered_before(Idempotency(key, fingerprint), tenant=tenant))

    @rule(which=WHICH, tenant=MAYBE_TENANT, version=VERSIONS)
    def cancel(self, which: int, tenant: str | None, version: int | None) -> None:
        self.of(which, lambda store, search: store.request_cancel(search, expected_version=version, tenant=tenant))

    @rule(which=WHICH, tenant=MAYBE_TENANT, version=VERSIONS)
    def pause(self, which: int, tenant: str | None, version: int | None) -> None:
        self.of(which, lambda store, search: store.request_pause(search, expected_version=version, tenant=tenant))

    @rule(which=WHICH, tenant=MAYBE_TENANT, version=VERSIONS)
    def resume(self, which: int, tenant: str | None, version: int | None) -> None:
        self.of(which, lambda store, search: store.request_resume(search, expected_version=version, tenant=tenant))

    @rule(which=WHICH, priority=st.sampled_from([None, 2]), version=VERSIONS)
    def update(self, which: int, priority: int | None, version: int | None) -> None:
        self.of(
            which,
            lambda store, search: store.update_search(
                search, labels={"c": "d"}, name="", priority=priority, expected_version=version
            ),
        )

    # what launchers and drivers do

    @rule(lease=LEASES, worker=WORKERS, limit=st.sampled_from([None, 1]), most=st.sampled_from([None, 2]))
    def claim(self, lease: float, worker: Worker | None, limit: int | None, most: int | None) -> None:
        limits = None if limit is None else {"a": limit}
        self.both(lambda store, _: store.claim(lease_seconds=lease, worker=worker, limits=limits, most_losses=most))

    @rule(most=st.sampled_from([None, 2]))
    def settle(self, most: int | None) -> None:
        self.both(lambda store, _: store.settle_lapsed(most_losses=most))

    @rule(which=WHICH, numbers=st.sets(NUMBERS, min_size=1), lease=LEASES)
    def work(self, which: int, numbers: set[int], lease: float) -> None:
        """What drivers mostly do: without this, few examples would get to a running trial."""
        self.both(lambda store, _: store.claim(lease_seconds=lease))
        for number in sorted(numbers):
            self.ask(which, 0, number, "search")
            self.start(which, 0, number)

    @rule(which=WHICH, late=LATE, lease=LEASES, worker=WORKERS)
    def renew(self, which: int, late: int, lease: float, worker: Worker | None) -> None:
        self.drive(which, late, lambda store, search, a: store.renew(search, a, lease_seconds=lease, worker=worker))

    @rule(which=WHICH, late=LATE, state=st.sampled_from([SearchState.RUNNING, SearchState.RUNNING, SearchState.FAILED]))
    def move(self, which: int, late: int, state: SearchState) -> None:
        budgets = [{"metric": "macs", "max": 5.0}]
        self.drive(which, late, lambda store, search, a: store.set_state(search, a, state, info={"budgets": budgets}))

    @rule(which=WHICH, late=LATE, lost=st.booleans(), most=st.sampled_from([None, 2]))
    def release(self, which: int, late: int, lost: bool, most: int | None) -> None:
        self.drive(which, late, lambda store, search, a: store.release(search, a, reason="r", lost=lost, most_losses=most))

    @rule(which=WHICH, late=LATE, number=NUMBERS, arm=st.sampled_from(["search", "base"]))
    def ask(self, which: int, late: int, number: int, arm: str) -> None:
        self.drive(which, late, lambda store, search, attempt: store.record_ask(search, attempt, trial(number, arm)))

    @rule(which=WHICH, late=LATE, number=NUMBERS)
    def start(self, which: int, late: int, number: int) -> None:
        self.drive(which, late, lambda store, search, attempt: store.record_start(search, attempt, number))

    @rule(which=WHICH, late=LATE, number=NUMBERS, of=st.sampled_from([None, 1, 2]), score=SCORES, macs=st.integers(4, 6))
    def tell(self, which: int, late: int, number: int, of: int | None, score: float | None, macs: int) -> None:
        outcome = Outcome.failed("no")
        if score is not None:
            outcome = Outcome(TrialState.COMPLETE, {"top1": score, "macs": float(macs)})
        seq = self.drive(
            which, late, lambda store, search, a: store.record_outcome(search, a, number, outcome, trial_attempt=of)
        )
        if seq is not None:
            place = which % len(self.ids), number
            assert place not in self.outcomes, "a second outcome was taken"
            self.outcomes[place] = outcome

    @rule(which=WHICH, scores=st.lists(SCORES, min_size=1, max_size=4), macs=st.integers(4, 6))
    def bring(self, which: int, scores: list[float | None], macs: int) -> None:
        """What workers mostly do: bring the outcomes of trials in flight."""
        for number, score in enumerate(scores):
            self.tell(which, 0, number, None, score, macs)

    @rule(which=WHICH, late=LATE, number=NUMBERS)
    def keep(self, which: int, late: int, number: int) -> None:
        artifact = Artifact(str(number % 2), number, "0")
        self.drive(which, late, lambda store, search, attempt: store.save_snapshot(search, attempt, {"n": number}))
        self.drive(which, late, lambda store, search, attempt: store.add_artifact(search, attempt, artifact))

    # what always holds

    @precondition(lambda self: self.ids)
    @invariant()
    def the_search_is_the_same(self) -> None:
        job = self.of(self.touched, lambda store, search: store.get_search(search))
        driven = job.state in (SearchState.PREPARING, SearchState.RUNNING, SearchState.FINISHING)
        assert (job.lease_expires_at is not None) == driven
        assert (job.finished_at is not None) == job.state.is_terminal

    def events(self, tenant: str | None) -> list[Event]:
        """All that a tenant is told; the searches it lists, and what was done to them, are the same too."""
        self.both(lambda store, _: store.list_searches(tenant=tenant))
        self.both(lambda store, _: store.audit(tenant=tenant, limit=1000))
        events: list[Event] = self.both(lambda store, _: store.events(tenant=tenant, limit=1000))
        return events

    def teardown(self) -> None:
        for which in range(len(self.ids)):
            self.of(which, lambda store, search: store.get_search(search))
            trials = self.of(which, lambda store, search: store.trials(search))
            kept = {t.trial.number: t.trial.outcome for t in trials if t.told_seq is not None}
            assert kept == {number: o for (search, number), o in self.outcomes.items() if search == which}
            attempts = self.of(which, lambda store, search: store.attempts(search))
            assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
            assert all(attempt.ended_at is not None for attempt in attempts[:-1])
            self.of(which, lambda store, search: (store.progress(search), store.artifacts(search)))
            self.of(which, lambda store, search: list(store.ahead_of([search]).values()))
        for tenant in (None, "a", "b"):
            events = self.events(tenant)
            ended: set[str] = set()
            for event in events:
                assert event.search_id not in ended, "something followed the end"
                ended |= {event.search_id} if event.kind == "end" else set()
        self.sql.close()


def test_memory_and_sqlite_agree(new_sqlite: Callable[[], str]) -> None:
    run(lambda: Stores(SqlStore(new_sqlite())), examples=12, steps=25)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_memory_and_database_agree_for_long(
    request: pytest.FixtureRequest, new_sqlite: Callable[[], str], database: str
) -> None:
    clean: Any = request.getfixturevalue("emptied_postgres") if database == "postgresql" else new_sqlite
    run(lambda: Stores(SqlStore(clean())), examples=40, steps=40)


def run(make: Callable[[], Stores], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        make,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
