import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from automl_prune.errors import UserError
from automl_prune.loop.audit import Origin
from automl_prune.loop.job import Artifact, SearchState, Worker
from automl_prune.loop.ports import Idempotency, QueueLimits
from automl_prune.storage.engine import connect
from automl_prune.storage.sql import SqlStore
from automl_prune.testing import StoreContract
from automl_prune.testing.store_kit import SCORED, SPEC, add, driven, trial
from automl_prune.trial import Outcome, TrialState

RACE = Path(__file__).with_name("race.py")


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, sqlite_url: str) -> Iterator[SqlStore]:
        with closing(SqlStore(sqlite_url)) as store:
            yield store


@pytest.fixture(scope="module")
def connected_store(postgres_schema: str) -> Iterator[SqlStore]:
    """One for all tests: connecting to PostgreSQL takes longer than most of them."""
    with closing(SqlStore(postgres_schema)) as store:
        yield store


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def store(self, connected_store: SqlStore, postgres_url: str) -> SqlStore:
        return connected_store


def race(what: str, url: str, *, processes: int) -> list[str]:
    """Let processes do something at the same moment; gives back the ids they told."""
    command = [sys.executable, str(RACE), what, url, str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == processes
    return [search for ids in lines for search in ids]


def test_processes_claim_each_search_once(url: str) -> None:
    with closing(SqlStore(url)) as store:
        ids = [add(store) for _ in range(60)]
        assert sorted(race("work", url, processes=3)) == ids
        assert len(store.list_searches(states=[SearchState.SUCCEEDED], limit=100)) == 60


def test_processes_may_open_a_new_database_at_once_and_die(empty_url: str) -> None:
    told = race("order_and_die", empty_url, processes=4)
    with closing(SqlStore(empty_url)) as store:
        assert sorted(job.id for job in store.list_searches()) == sorted(told)


def test_reading_does_not_wait_for_a_writer(sqlite_url: str) -> None:
    writer = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    with closing(SqlStore(sqlite_url)) as store, closing(writer):
        search = driven(store, trials=1)
        writer.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert store.get_search(search).attempt == 1
        assert len(store.trials(search)) == len(store.list_searches()) == 1
        assert time.monotonic() - started < 5


def test_sqlite_is_set_up_for_several_processes(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    engine.dispose()
    assert found == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 10_000, "foreign_keys": 1}


@pytest.fixture
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Every statement sent to a database, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)


def every_call(store: SqlStore) -> None:
    search = driven(store, trials=2)
    store.record_start(search, 1, 0)
    store.record_outcome(search, 1, 0, SCORED)
    store.save_snapshot(search, 1, {})
    store.add_artifact(search, 1, Artifact("a", 1, "00"))
    store.artifacts(search)
    store.trial(search, 0)
    for arm in (None, "search"):
        store.trials(search, arm=arm, after=3, limit=10)
    store.trials(search, arm="search", state="pending", limit=10)
    store.progress_of([search, "another"], tenant="default")
    store.attempts(search)
    store.renew(search, 1, lease_seconds=0, worker=Worker("w", "h", 1))
    store.add_search({}, name=None, labels={}, priority=9, queue=QueueLimits(9, 9), origin=Origin("a"))
    taken = store.claim(lease_seconds=60, limits={"a": 0}, most_losses=9)
    assert taken is not None
    store.request_pause(search)
    store.release(search, taken.attempt, reason="")
    store.request_resume(search)
    store.update_search(search, labels={"a": "b"}, priority=1)
    store.ahead_of([search])
    store.add_search_once({}, name=None, labels={}, idempotency=Idempotency("k", "f"))
    store.add_search_once({}, name=None, labels={}, idempotency=Idempotency("k", "f"))
    store.ordered_before(Idempotency("k", "f"))
    store.request_cancel(search)
    store.events(search, after=3)
    for tenant in (None, "default"):
        for of in (None, search):
            store.audit(object_id=of, before="audt_z", tenant=tenant)
    for tenant in (None, "default"):
        store.events(tenant=tenant, after=3)
        store.count_searches(tenant=tenant, states=[SearchState.QUEUED, SearchState.RUNNING])
        for filters in ({}, {"strategy": "abc"}, {"states": [SearchState.QUEUED]}, {"label": ("a", "b")}):
            store.list_searches(before=search, tenant=tenant, **filters)


def test_no_query_reads_a_whole_table_or_sorts_it(sqlite_url: str, statements: list[tuple[str, Any]]) -> None:
    with closing(SqlStore(sqlite_url)) as store:
        every_call(store)
    queries = [(sql, values) for sql, values in statements if sql.startswith(("SELECT", "UPDATE", "DELETE"))]
    database = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with closing(database):
        for sql, values in queries:
            for *_, step in database.execute(f"EXPLAIN QUERY PLAN {sql}", values):
                assert "alembic_version" in step or "SCAN" not in step or "USING" in step, (step, sql)
                assert "TEMP B-TREE" not in step, (step, sql)
    assert len(queries) > 60


def better(number: int) -> Outcome:
    return Outcome(TrialState.COMPLETE, {"top1": float(number)})


@pytest.mark.parametrize(
    "call",
    [
        lambda store, search, number: store.get_search(search),
        lambda store, search, number: store.list_searches(),
        lambda store, search, number: store.progress(search),
        lambda store, search, number: store.record_ask(search, 1, trial(number)),
        lambda store, search, number: store.record_outcome(search, 1, number - 1, better(number)),
    ],
    ids=["get_search", "list_searches", "progress", "record_ask", "record_outcome"],
)
def test_a_call_costs_the_same_however_many_trials(
    sqlite_url: str, statements: list[tuple[str, Any]], call: Callable[[SqlStore, str, int], object]
) -> None:
    with closing(SqlStore(sqlite_url)) as store:
        search = driven(store)
        counts = []
        for number in (0, 20):
            for n in range(number, number + 10):
                store.record_ask(search, 1, trial(n))
            statements.clear()
            call(store, search, number + 10)
            counts.append([sql for sql, _ in statements])
    assert counts[0] == counts[1]


def test_a_page_of_searches_takes_two_queries(url: str, statements: list[tuple[str, Any]]) -> None:
    with closing(SqlStore(url)) as store:
        for _ in range(5):
            add(store, SPEC, team="edge")
        statements.clear()
        assert len(store.list_searches()) == 5
    selects = [sql for sql, _ in statements if sql.startswith("SELECT")]
    assert len(selects) == 2
    assert not any("trials" in sql or "snapshots" in sql for sql in selects)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "MemoryStore"),
        ("sqlite:///:memory:", "MemoryStore"),
        ("sqlite:///no/such/folder/a.sqlite3", "folder"),
        ("mysql://user:hunter2@host/db", "sqlite or postgresql"),
        ("user:hunter2@host", "sqlite:///FILE"),
    ],
)
def test_a_url_that_does_not_work_is_refused(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        SqlStore(url)
    assert "hunter2" not in str(caught.value)


def test_postgresql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match="pip install"):
        SqlStore("postgresql://host/name")
