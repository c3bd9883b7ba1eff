import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy.exc
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from automl_prune.loop.job import Event, SearchJob, SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.retention import Retention
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import EventRow, SearchRow
from automl_prune.trial import Outcome, Trial, TrialState
from services.api import feed
from services.api.app import create_app
from services.api.context import Review
from services.api.feed import Item, Listener, sent
from services.settings import Settings
from tests.services.conftest import SPACE
from tests.services.sse import Received, received
from tests.services.waiting import until

Fill = Callable[[Store], str]
Serve = Callable[[FastAPI], str]
CROWD = 60


@contextmanager
def following(url: str, **headers: str) -> Iterator[Iterator[Received]]:
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        events = received(response)
        assert next(events).retry == "3000"
        yield events


def looks_of(app: FastAPI) -> list[Listener]:
    """Grows by a listener whenever one has read what it missed: each does so twice, before and after it joins the others."""
    ended: list[Listener] = []
    missed = app.state.feed._missed

    async def noted(listener: Listener) -> AsyncIterator[list[Item]]:
        async for items in missed(listener):
            yield items
        ended.append(listener)

    app.state.feed._missed = noted
    return ended


def evaluate(store: Store, job: SearchJob, number: int, top1: float) -> None:
    store.record_ask(job.id, job.attempt, Trial(number, SPACE.narrowest))
    store.record_start(job.id, job.attempt, number)
    store.record_outcome(job.id, job.attempt, number, Outcome(TrialState.COMPLETE, {"top1": top1, "macs": 1.0}))


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=60, trust_env=False)


def finish(store: Store, job: SearchJob) -> None:
    store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, reason="finished")


def test_a_search_is_told_to_its_end_and_again_from_any_event(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve
) -> None:
    job = store.get_search(fill(store))
    url = f"{serve(app)}/v1/searches/{job.id}/events"
    with following(url) as events, ThreadPoolExecutor(1) as pool:
        heard = [next(events) for _ in range(3)]
        assert [event.event for event in heard] == ["search.state"] * 3
        assert [event.data["state"] for event in heard] == ["queued", "preparing", "running"]
        pool.submit(evaluate, store, job, 20, 0.99).result()
        pool.submit(finish, store, job).result()
        heard += events
    kinds = [event.event for event in heard]
    assert set(kinds) == {"search.state", "trial.started", "trial.completed", "best.updated", "end"}
    assert kinds[-2:] == ["search.state", "end"]
    assert kinds.count("trial.completed") == 14
    ids = [int(event.id or -1) for event in heard]
    assert ids == sorted(set(ids))
    completed = next(e for e in heard if e.event == "trial.completed" and e.data["number"] == 20)
    assert completed.data["metrics"]["top1"] == 0.99
    assert completed.data["search_id"] == job.id
    assert completed.data["event"] == "trial.completed"
    assert str(completed.data["id"]) == completed.id
    for cut in (0, 5, len(heard) - 2):
        with following(url, **{"Last-Event-ID": str(ids[cut])}) as events:
            assert list(events) == heard[cut + 1 :]
        with following(f"{url}?last_event_id={ids[cut]}") as events:
            assert list(events) == heard[cut + 1 :]
    assert get(url, **{"Last-Event-ID": str(ids[-1])}).status_code == 204


def test_latest_tells_only_of_what_is_to_come(app: FastAPI, store: SqlStore, fill: Fill, serve: Serve) -> None:
    job = store.get_search(fill(store))
    with following(f"{serve(app)}/v1/searches/{job.id}/events?last_event_id=latest") as events:
        finish(store, job)
        assert [event.event for event in events] == ["search.state", "end"]


def test_nobody_misses_or_repeats_anything_while_events_pour_in(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve
) -> None:
    job = store.get_search(fill(store))
    url = f"{serve(app)}/v1/searches/{job.id}/events"
    heard: list[list[str | None]] = []

    def listen(delay: float) -> None:
        time.sleep(delay)
        with following(url) as events:
            heard.append([event.id for event in events])

    with ThreadPoolExecutor(8) as pool:
        listeners = [pool.submit(listen, i * 0.05) for i in range(8)]
        for number in range(20, 60):
            evaluate(store, job, number, number / 100)
        finish(store, job)
        for each in listeners:
            each.result(120)
    expected = [str(event.id) for event in store.events(job.id, limit=1000)]
    assert heard == [expected] * 8


def test_who_missed_what_is_not_kept_any_more_is_told_so(app: FastAPI, store: SqlStore, fill: Fill, serve: Serve) -> None:
    job = store.get_search(fill(store))
    finish(store, job)
    ids = [event.id for event in store.events(job.id, limit=1000)]
    with store.database.write() as session:
        long_ago = store.database.now(-8 * 86_400)
        session.execute(update(SearchRow).values(created_at=long_ago))
        session.execute(update(EventRow).values(created_at=long_ago))
    assert Retention(store.database, days=7, least=5).prune() == len(ids) - 5
    url = f"{serve(app)}/v1/searches/{job.id}/events"
    for place in ({}, {"Last-Event-ID": str(ids[0])}, {"Last-Event-ID": str(ids[-7])}):
        with following(url, **place) as events:
            first, *rest = events
        assert (first.event, first.id, first.data["search_id"]) == ("reset", str(ids[-6]), job.id)
        assert [event.id for event in rest] == [str(number) for number in ids[-5:]]
        assert rest[-1].event == "end"
    for number in (ids[-6], ids[-5], ids[-2]):
        with following(url, **{"Last-Event-ID": str(number)}) as events:
            assert [int(event.id or -1) for event in events] == [later for later in ids if later > number]


def test_a_silent_stream_says_that_it_is_there(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.feed.PING_SECONDS", 0.1)
    url = f"{serve(app)}/v1/searches/{fill(store)}/events?last_event_id=latest"
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("GET", url) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(6)] == ["retry: 3000", "", ": ping", "", ": ping", ""]


def test_an_event_is_put_into_words_once_for_everybody(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.get_search(fill(store))
    url = f"{serve(app)}/v1/searches/{job.id}/events?last_event_id=latest"
    worded = Counter[int]()

    def counted(event: Event) -> Any:
        worded[event.id] += 1
        return sent(event)

    monkeypatch.setattr("services.api.feed.sent", counted)
    looks = looks_of(app)
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(following(url)) for _ in range(8)]
        until(lambda: len(looks) == 2 * len(streams))
        evaluate(store, job, 20, 0.1)
        finish(store, job)
        heard = [[event.id for event in events] for events in streams]
    assert heard == [heard[0]] * 8
    assert [worded[int(number or -1)] for number in heard[0]] == [1] * len(heard[0])


class Stumbling:
    """A store that fails once where it is told to."""

    def __init__(self, store: SqlStore) -> None:
        self._store, self.on = store, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def events(self, search_id: str, **options: Any) -> Any:
        if search_id == self.on:
            self.on = ""
            raise sqlalchemy.exc.InternalError("SELECT", {}, Exception("idle in transaction"))
        return self._store.events(search_id, **options)


def test_an_error_that_nobody_expects_ends_no_stream_for_ever(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Who listens to the search that it is about comes back and misses nothing; the others notice nothing."""
    broken, other = store.get_search(fill(store)), store.get_search(fill(store))
    app.state.feed._store = stumbling = Stumbling(store)
    url = f"{serve(app)}/v1/searches"
    last = store.events(broken.id, limit=1000)[-1].id
    begin, looks = {"Last-Event-ID": str(last)}, looks_of(app)
    with following(f"{url}/{broken.id}/events", **begin) as events, following(f"{url}/{other.id}/events") as others:
        first = [next(others) for _ in range(3)]
        until(lambda: len(looks) == 4)  # both have joined
        stumbling.on = broken.id
        evaluate(store, broken, 20, 0.99)
        cut = list(events)
        assert "end" not in {event.event for event in cut}
        with following(f"{url}/{broken.id}/events", **begin) as again:
            finish(store, broken)
            assert [event.event for event in again][-1] == "end"
        finish(store, other)
        assert [event.event for event in [*first, *others]][-1] == "end"
    assert f"the events of {broken.id} cannot be read" in caplog.text


def test_keys_that_cannot_be_read_end_no_stream(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, asked = store.get_search(fill(store)), threading.Semaphore(0)

    def fails(keys: Any) -> set[str]:
        asked.release()
        raise sqlalchemy.exc.InternalError("SELECT", {}, Exception("idle in transaction"))

    monkeypatch.setattr(feed, "KEY_SECONDS", 0.1)
    app.state.feed._still_admits = fails
    with following(f"{serve(app)}/v1/searches/{job.id}/events") as events:
        assert [next(events) for _ in range(3)]
        assert all(asked.acquire(timeout=60) for _ in range(3))
        finish(store, job)
        assert list(events)[-1].event == "end"


def test_refusals_are_problems(client: TestClient, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    assert client.get("/v1/searches/srch_unknown/events").json()["code"] == "not_found"
    for place in ("x", "-1", "1" * 19, "¹"):
        answer = client.get(f"/v1/searches/{job_id}/events", params={"last_event_id": place})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/header/last-event-id")


def test_a_key_has_only_so_many_streams(
    store: SqlStore, settings: Settings, review: Review, fill: Fill, serve: Serve
) -> None:
    job_id = fill(store)
    app = create_app(store, settings.model_copy(update={"max_streams": 2}), review)
    url = f"{serve(app)}/v1/searches/{job_id}/events"
    with following(url), following(url):
        refused = get(url)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert int(refused.headers["retry-after"]) > 0
    until(lambda: not app.state.feed.streams)
    with following(url) as events:
        assert next(events).event == "search.state"


def test_a_stream_ends_with_its_key(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.feed.KEY_SECONDS", 0.1)
    job, keys = store.get_search(fill(store)), ApiKeys(store.database)
    url = f"{serve(app)}/v1/searches/{job.id}/events?last_event_id=latest"
    with following(url) as without:
        (short, short_token), (_, long_token) = keys.create("short"), keys.create("long")
        assert list(without) == [], "from the first key on, nobody gets in without one"
    with following(url, **{"X-API-Key": short_token}) as cut, following(url, **{"X-API-Key": long_token}) as kept:
        keys.revoke(short.id)
        assert list(cut) == []
        assert get(url, **{"X-API-Key": short_token}).status_code == 401
        time.sleep(0.3)
        finish(store, job)
        assert [event.event for event in kept] == ["search.state", "end"]


def test_a_crowd_of_listeners_costs_the_store_as_much_as_one(
    app: FastAPI, store: SqlStore, fill: Fill, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.get_search(fill(store))
    url = f"{serve(app)}/v1/searches/{job.id}/events?last_event_id=latest"
    reads: list[int] = []
    events, looks = store.events, looks_of(app)

    def counted(search_id: str | None = None, **options: Any) -> Any:
        reads.append(1)
        return events(search_id, **options)

    async def listen(client: httpx.AsyncClient) -> str:
        async with client.stream("GET", url) as response:
            return (await response.aread()).decode()

    async def crowd() -> list[str]:
        async with httpx.AsyncClient(timeout=240, trust_env=False, limits=httpx.Limits()) as client:
            tasks = [asyncio.create_task(listen(client)) for _ in range(CROWD)]
            while len(looks) < 2 * CROWD:
                await asyncio.sleep(0.02)
            reads.clear()
            for number in range(20, 25):
                evaluate(store, job, number, 0.1)
            finish(store, job)
            return await asyncio.gather(*tasks)

    monkeypatch.setattr(store, "events", counted)
    told = asyncio.run(crowd())
    assert all(text.count("event: trial.completed") == 5 and "event: end" in text for text in told)
    assert len(reads) < 30
