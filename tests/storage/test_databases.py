"""What only a database can do wrong: clocks, keys that grow old, transactions that end in another order than they began."""

import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.exc import IntegrityError

from automl_prune.loop.job import EventKind
from automl_prune.loop.ports import Idempotency
from automl_prune.storage import database
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.steps import EVENTS
from automl_prune.storage.tables import IdempotencyRow, WebhookRow
from automl_prune.testing.store_kit import SPEC, add, claimed


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url)) as store:
        yield store


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as store:
        yield store


def test_a_key_is_forgotten_after_a_day(store: SqlStore) -> None:
    def order(fingerprint: str) -> bool:
        return store.add_search_once(SPEC, name=None, labels={}, idempotency=Idempotency("k", fingerprint)).replayed

    assert not order("f")
    for hours, replayed in ((23.9, True), (24.1, False)):
        with store.database.write() as session:
            session.execute(update(IdempotencyRow).values(created_at=datetime.now(UTC) - timedelta(hours=hours)))
        fingerprint = "f" if replayed else "another"
        assert (store.ordered_before(Idempotency("k", fingerprint)) is not None) == replayed
        assert order(fingerprint) == replayed
    assert store.count_searches() == 2


class YearsLater(datetime):
    """A clock that is wrong."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(days=1000)


def test_leases_run_on_the_clock_of_the_server(postgres: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    search = add(postgres)
    claimed(postgres, lease_seconds=60)
    monkeypatch.setattr(database, "datetime", YearsLater)
    assert postgres.claim(lease_seconds=60) is None, "another machine's clock ends no lease"
    renewed = postgres.renew(search, 1, lease_seconds=60).lease_expires_at
    assert renewed is not None
    assert abs(renewed - datetime.now(UTC)) < timedelta(minutes=2)


def test_no_event_is_passed_over_that_commits_late(postgres: SqlStore) -> None:
    slow, quick = add(postgres), add(postgres)
    seen = postgres.events()
    event = {"tenant": "default", "kind": EventKind.STATE.value, "data": {}, "created_at": datetime.now(UTC)}
    with postgres.database.engine.connect() as connection:
        txid = connection.scalar(text("SELECT txid_current()"))
        connection.execute(insert(EVENTS).values(**event, search_id=slow, txid=txid))
        postgres.request_pause(quick)
        assert [e.data["state"] for e in postgres.events(quick)] == ["queued", "paused"], "who watches it need not wait"
        assert postgres.events(after=seen[-1].id) == [], "who watches all would pass over the one before"
        connection.commit()
    late, paused = postgres.events(after=seen[-1].id)
    assert (late.search_id, paused.search_id, late.id < paused.id) == (slow, quick, True)
    assert postgres.events(after=late.id) == [paused]


def test_events_are_read_in_the_order_of_transactions_and_none_twice(postgres: SqlStore) -> None:
    search = add(postgres)
    last = postgres.events()[-1].id
    event = {"tenant": "default", "search_id": search, "kind": EventKind.STATE.value, "created_at": datetime.now(UTC)}
    with postgres.database.engine.connect() as first, postgres.database.engine.connect() as second:
        began = first.scalar(text("SELECT txid_current()"))
        later = second.scalar(text("SELECT txid_current()"))
        second.execute(insert(EVENTS).values(**event, data={"by": "second"}, txid=later))
        first.execute(insert(EVENTS).values(**event, data={"by": "first"}, txid=began))
        first.commit()
        (one,) = postgres.events(after=last)
        second.commit()
    (other,) = postgres.events(after=one.id)
    assert ([one.data["by"], other.data["by"]], one.id > other.id) == (["first", "second"], True)
    assert postgres.events(after=other.id) == []


def test_a_process_that_stops_in_a_transaction_does_not_keep_its_locks(postgres: SqlStore) -> None:
    with postgres.database.engine.connect() as connection:
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"


@pytest.mark.parametrize("broken", [{"id": "whk_1"}, {"url": None}], ids=["twice", "nothing"])
def test_a_row_that_is_refused_is_not_quoted(store: SqlStore, broken: dict[str, Any]) -> None:
    row: dict[str, Any] = {"id": "whk_1", "tenant": "edge", "url": "https://a.example", "secret": "a secret of sixteen"}
    row |= {"kinds": [], "created_at": datetime.now(UTC), "failures": 0, "position": 0}
    with store.database.write() as session:
        session.execute(insert(WebhookRow).values(**row))
    with pytest.raises(IntegrityError) as caught, store.database.write() as session:
        session.execute(insert(WebhookRow).values(**row | {"id": "whk_2"} | broken))
    told = "".join(traceback.format_exception(caught.value))
    assert "webhooks" in told, "what went wrong is told"
    assert "secret of sixteen" not in told
