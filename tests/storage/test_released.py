"""Databases as released programs left them; each file is one, written by ``sqlite3 FILE .dump``.

A new revision brings a new file, made with the program before it: searches in every state, with trials and files.
"""

import json
import sqlite3
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import JSON, Boolean, DateTime, MetaData, Table

from automl_prune.loop.job import Artifact, Best, SearchState
from automl_prune.space import Candidate
from automl_prune.storage import migrate
from automl_prune.storage.engine import connect
from automl_prune.storage.sql import SqlStore
from automl_prune.testing.store_kit import SCORED, trial
from automl_prune.trial import TrialState

DUMPS = sorted(Path(__file__).with_name("released").glob("*.sql"))


def on_sqlite(dump: Path, url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        database.executescript(dump.read_text())


def on_postgresql(dump: Path, url: str) -> None:
    """The same rows in the tables of the same revision."""
    config = migrate.script_config()
    config.cmd_opts = Namespace(x=[f"url={url}"])
    command.upgrade(config, dump.stem)
    engine, tables = connect(url), MetaData()
    with closing(sqlite3.connect(":memory:")) as source, engine.begin() as target:
        source.executescript(dump.read_text())
        source.row_factory = sqlite3.Row
        tables.reflect(target)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                rows = [values(table, row) for row in source.execute(f"SELECT * FROM {table.name}")]
                if rows:
                    target.execute(table.insert(), rows)
    engine.dispose()


def values(table: Table, row: sqlite3.Row) -> dict[str, Any]:
    """A row of SQLite as PostgreSQL takes it."""
    read: dict[type, Callable[[Any], Any]] = {
        JSON: json.loads,
        Boolean: bool,
        DateTime: lambda text: datetime.fromisoformat(f"{text}+00:00"),
    }
    found = {}
    for column in table.columns:
        kind = next((k for k in read if isinstance(column.type, k)), None)
        found[column.name] = row[column.name] if kind is None or row[column.name] is None else read[kind](row[column.name])
    return found


@pytest.fixture(params=DUMPS, ids=lambda dump: dump.stem)
def store(request: pytest.FixtureRequest, empty_url: str) -> Iterator[SqlStore]:
    """A released database, upgraded."""
    put = on_sqlite if empty_url.startswith("sqlite") else on_postgresql
    put(request.param, empty_url)
    assert migrate.current(empty_url) == request.param.stem
    with closing(SqlStore.open(empty_url, upgrade=True)) as store:
        yield store


def test_there_is_a_database_of_every_earlier_revision() -> None:
    assert {dump.stem for dump in DUMPS} == set(migrate.revisions()[1:])


def test_every_search_is_still_there(store: SqlStore) -> None:
    cancelled, queued, running, done = store.list_searches()
    assert [job.state for job in (cancelled, queued, running, done)] == [
        SearchState.CANCELLED,
        SearchState.QUEUED,
        SearchState.RUNNING,
        SearchState.SUCCEEDED,
    ]
    assert {(job.tenant, job.priority, job.pause_requested) for job in store.list_searches()} == {("default", 0, False)}
    assert (cancelled.name, done.labels, store.get_search(done.id).result) == (
        "never mind — 木",
        {"team": "edge"},
        {"schema_version": 1, "trial": 2},
    )
    assert [job.losses for job in (running, done)] == [1, 0]
    assert store.artifacts(done.id) == [Artifact("model.safetensors", 5_000_000_000, "aa" * 32)]
    assert [stored.trial.state for stored in store.trials(done.id)][2:4] == [TrialState.COMPLETE, TrialState.FAILED]
    assert store.trial(done.id, 5).trial.candidate == Candidate((13, 16))


def test_the_best_trials_are_found(store: SqlStore) -> None:
    """Number 6 of the running search scored higher, but is over the budget; 5 scored the same as 2, but later."""
    _, queued, running, done = (store.get_search(job.id) for job in store.list_searches())
    assert queued.best == {}
    assert running.best == done.best == {"base": Best(0, 0.91), "search": Best(2, 0.8)}


def test_a_running_search_goes_on(store: SqlStore) -> None:
    running = store.list_searches(states=[SearchState.RUNNING])[0]
    job = store.claim(lease_seconds=60, most_losses=3)
    assert job is not None
    assert (job.id, job.attempt, job.losses) == (running.id, 3, 2)
    assert job.snapshot == {"sequence": 5, "strategies": {"search": {"z": [0.1]}}}
    assert store.progress(job.id) == {"base": {"complete": 1}, "search": {"complete": 5, "failed": 1, "pending": 1}}
    assert store.record_start(job.id, 3, 7) == 2
    store.record_outcome(job.id, 3, 7, SCORED)
    store.record_ask(job.id, 3, trial(8))
    store.set_state(job.id, 3, SearchState.SUCCEEDED)
    assert [attempt.number for attempt in store.attempts(job.id)] == [3]
    assert store.events(job.id)[-1].kind == "end"


def test_a_queued_search_is_claimed(store: SqlStore) -> None:
    queued = store.list_searches(states=[SearchState.QUEUED])[0]
    store.update_search(queued.id, priority=1)
    job = store.claim(lease_seconds=60)
    assert job is not None
    assert job.id == queued.id
