import threading
import time
from collections.abc import Callable

from fastapi import FastAPI

from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage.sql import SqlStore
from services.cli.client import Client
from services.cli.news import News
from services.cli.progress import evaluated, follow
from services.cli.text import Json
from tests.services.test_events import evaluate
from tests.services.waiting import until

Fill = Callable[[Store], str]
Serve = Callable[[FastAPI], str]


class Seen:
    def __init__(self) -> None:
        self.done: list[int] = []

    def update(self, search: Json) -> None:
        self.done.append(evaluated(search)[0])


def followed(client: Client, search_id: str, seen: Seen) -> threading.Thread:
    def work() -> None:
        with News(client, search_id) as news:
            follow(lambda: client.search(search_id), seen, pause=0.2, wait=news.wait)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_search_is_asked_for_when_there_is_news_alone(app: FastAPI, serve: Serve, store: SqlStore, fill: Fill) -> None:
    job = store.get_search(fill(store))
    with Client(serve(app)) as client:
        seen = Seen()
        thread = followed(client, job.id, seen)

        def quiet() -> bool:
            asked = len(seen.done)
            time.sleep(1.5)
            return len(seen.done) == asked

        until(
            lambda: app.state.feed.streams == 1 and len(seen.done) >= 2 and quiet(),
            why=lambda: "nothing happens, and yet it asks",
        )
        before = len(seen.done)
        evaluate(store, job, 20, 0.5)
        until(lambda: seen.done[-1] == 13)
        store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, reason="finished")
        thread.join(60)
        assert not thread.is_alive()
        assert len(seen.done) - before <= 8


def test_without_a_stream_it_asks_now_and_then(app: FastAPI, serve: Serve, store: SqlStore, fill: Fill) -> None:
    job = store.get_search(fill(store))
    app.state.feed.close()
    with Client(serve(app)) as client:
        seen = Seen()
        thread = followed(client, job.id, seen)
        until(lambda: len(seen.done) >= 5)
        evaluate(store, job, 20, 0.5)
        until(lambda: seen.done[-1] == 13)
        store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, reason="finished")
        thread.join(60)
        assert not thread.is_alive()
