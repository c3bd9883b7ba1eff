import asyncio
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from automl_prune.errors import LeaseLostError
from automl_prune.loop.job import EventKind, SearchState
from automl_prune.space import Candidate
from automl_prune.storage import watching
from automl_prune.storage.database import Database
from automl_prune.storage.engine import PATIENCE
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.statistics import Statistics
from automl_prune.storage.watching import Watcher
from automl_prune.storage.webhooks import Delivery, Webhooks
from automl_prune.trial import Outcome, Trial, TrialState


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    opened = SqlStore.open(url)
    yield opened
    opened.close()


def ordered(store: SqlStore, tenant: str = "default") -> str:
    return store.add_search({}, name=None, labels={}, tenant=tenant).id


def test_the_last_event_is_known(store: SqlStore) -> None:
    watcher = Watcher(store.database)
    assert (watcher.last(), watcher.last("srch_none")) == (0, 0)
    first, second = ordered(store), ordered(store)
    assert watcher.last(first) < watcher.last(second) == watcher.last()


@pytest.fixture
def never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks without being told that there is something new."""
    monkeypatch.setattr(watching, "QUIET_SECONDS", 600.0)


@pytest.mark.usefixtures("never_quiet")
def test_changes_are_told_soon_and_by_search(store: SqlStore) -> None:
    async def hear() -> tuple[Collection[str] | None, str]:
        async with aclosing(Watcher(store.database).changes()) as changes:
            assert await anext(changes) is None
            search_id = await asyncio.to_thread(ordered, store)
            heard = await asyncio.wait_for(anext(changes), 60)
            return heard, search_id

    heard, search_id = asyncio.run(hear())
    assert heard == {search_id}


@pytest.mark.usefixtures("never_quiet")
def test_a_listener_whose_connection_breaks_listens_again(postgres_url: str) -> None:
    store = SqlStore.open(postgres_url)
    database = Database(postgres_url)

    def cut() -> None:
        listening = "query LIKE 'LISTEN %' AND pid <> pg_backend_pid()"
        with database.read() as session:
            session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}"))

    async def hear() -> list[Collection[str] | None]:
        async with aclosing(Watcher(store.database).changes()) as changes:
            heard = [await anext(changes)]
            await asyncio.to_thread(cut)
            heard.append(await asyncio.wait_for(anext(changes), 60))
            search_id = await asyncio.to_thread(ordered, store)
            heard.append(await asyncio.wait_for(anext(changes), 60))
            return [None if h is None else [search_id] if search_id in h else h for h in heard]

    heard = asyncio.run(hear())
    assert heard[:2] == [None, None]
    assert len(heard[2] or ()) == 1
    store.close()
    database.close()


def test_a_listener_that_leaves_while_it_begins_to_listen_keeps_no_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore.open(postgres_url)
    connected: list[psycopg.AsyncConnection[Any]] = []
    connect = psycopg.AsyncConnection.connect

    async def noted(**arguments: Any) -> psycopg.AsyncConnection[Any]:
        connected.append(await connect(**arguments))
        return connected[-1]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", noted)

    async def leave() -> None:
        async with aclosing(Watcher(store.database).changes()) as changes:
            first = asyncio.create_task(anext(changes))
            while not connected:
                await asyncio.sleep(0)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first

    asyncio.run(leave())
    assert [connection.closed for connection in connected] == [True]
    store.close()


def test_a_listener_notices_a_server_that_says_nothing_like_everybody_else(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    connect = psycopg.AsyncConnection.connect

    async def noted(**arguments: Any) -> psycopg.AsyncConnection[Any]:
        told.append(arguments)
        return await connect(**arguments)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", noted)

    async def listen(url: str) -> None:
        with closing(SqlStore(url)) as store:
            async with aclosing(Watcher(store.database).changes()) as changes:
                await anext(changes)

    joint = "&" if "?" in postgres_url else "?"
    for url in (postgres_url, f"{postgres_url}{joint}keepalives_idle=77"):
        asyncio.run(listen(url))
    plain, chosen = told
    assert {name: plain[name] for name in PATIENCE} == PATIENCE
    assert (int(chosen["keepalives_idle"]), chosen["tcp_user_timeout"]) == (77, PATIENCE["tcp_user_timeout"])


def test_what_becomes_of_a_search_is_logged_once_it_is_certain(store: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "automl_prune.searches")
    search_id = ordered(store)
    store.claim(lease_seconds=60)
    with pytest.raises(LeaseLostError):
        store.set_state(search_id, 7, SearchState.RUNNING)
    store.set_state(search_id, 1, SearchState.FAILED, reason="broken")
    said = [(r.getMessage(), vars(r)["search_id"], vars(r)["attempt"]) for r in caplog.records]
    assert said == [
        (f"search {search_id} is queued", search_id, 0),
        (f"search {search_id} is preparing: starting a driver", search_id, 1),
        (f"search {search_id} is failed: broken", search_id, 1),
    ]


def test_webhooks_get_each_event_once_however_many_send(store: SqlStore) -> None:
    ordered(store, "them")
    hooks = [Webhooks(store) for _ in range(3)]
    made = hooks[0].create("them", "https://a", "secret", ["search.state", "end"])
    mine = [ordered(store, "them") for _ in range(5)]
    ordered(store, "us")
    store.request_cancel(mine[0], tenant="them")
    claimed: list[Delivery] = []
    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(lambda each: each.spread(), hooks)) == 7
        while found := [delivery for some in pool.map(lambda each: each.claim(10), hooks) for delivery in some]:
            (delivery,) = found
            hooks[0].settle(delivery, 200, None)
            hooks[1].settle(delivery, 200, None)
            claimed.append(delivery)
    assert [d.event.id for d in claimed] == [e.id for e in store.events(tenant="them")][1:]
    assert {d.secret for d in claimed} == {"secret"}
    assert "secret" not in repr(claimed[0]).replace("search", "")
    assert [d.event.kind for d in claimed].count(EventKind.END) == 1
    hooks[0].remove(made.id, "them")
    assert hooks[0].known("them") == []


def test_a_delivery_that_another_took_up_is_not_settled(store: SqlStore) -> None:
    hooks = Webhooks(store)
    hooks.create("default", "https://a", "secret", ["search.state"])
    ordered(store)
    hooks.spread()
    (first,) = hooks.claim(1)
    with store.database.write() as session:
        session.execute(text("UPDATE webhook_deliveries SET attempts = 2"))
    hooks.settle(first, 500, "late")
    assert hooks.known("default")[0].failures == 0


def test_figures_say_how_much_there_is(store: SqlStore) -> None:
    statistics = Statistics(store)
    assert (statistics.figures().searches, statistics.figures().waiting_seconds) == ({}, 0.0)
    search_id = ordered(store)
    job = store.claim(lease_seconds=60)
    assert job is not None
    ordered(store)
    for number in range(3):
        store.record_ask(search_id, 1, Trial(number, Candidate((1,))))
        store.record_start(search_id, 1, number)
    store.record_outcome(search_id, 1, 0, Outcome(TrialState.COMPLETE, {"top1": 1.0}, {"seconds": 2.5}))
    store.record_outcome(search_id, 1, 1, Outcome.failed("broken"))
    figures = statistics.figures()
    assert figures.searches == {"preparing": 1, "queued": 1}
    assert figures.trials == {"complete": 1, "failed": 1, "running": 1}
    assert 0 <= figures.waiting_seconds < 60
    ended = list(statistics.ended())
    assert sorted((e.state, e.evaluated) for e in ended) == [("complete", 2.5), ("failed", 0.0)]
    assert all(0 <= e.seconds < 60 for e in ended)
    assert list(statistics.ended()) == []
    store.release(search_id, 1, reason="gone", lost=True)
    assert statistics.figures().lost == 1
