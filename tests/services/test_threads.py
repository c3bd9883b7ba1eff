"""Requests that take long leave threads to the others; each test asks for more of them than there are threads."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.ports import Store
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.webhooks import MOST
from services.api import standings, webhooks
from services.settings import Settings
from services.webhooks import guard

MANY = 45


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MANY) as pool:
        yield pool


class Gate:
    """Where calls wait until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened, self.here = threading.Event(), threading.Event(), 0

    def wait(self) -> None:
        self.here += 1
        self.entered.set()
        assert self.opened.wait(240)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Where look-ups of names wait; it is opened in the end, as no test may leave a thread behind."""
    gate = Gate()

    def resolve(host: str, port: int) -> list[str]:
        gate.wait()
        return ["93.184.215.14"]

    monkeypatch.setattr(guard, "resolve", resolve)
    yield gate
    gate.opened.set()


SLOW = {"url": "https://slow.example/"}


def test_names_that_are_looked_up_slowly(
    client: TestClient, pool: ThreadPoolExecutor, looked_up: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LOOK_UP_SECONDS", 600.0)
    asked = [pool.submit(client.post, "/v1/webhooks", json=SLOW) for _ in range(MANY)]
    assert looked_up.entered.wait(120)
    assert client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).status_code == 201
    assert len(client.get("/v1/webhooks").json()["items"]) == 1
    assert not any(each.done() for each in asked)
    looked_up.opened.set()
    answers = [each.result(120).status_code for each in asked]
    assert sorted(answers) == [201] * (MOST - 1) + [409] * (MANY - MOST + 1), "all were looked up"


def test_names_that_are_not_looked_up_in_time(
    client: TestClient, pool: ThreadPoolExecutor, looked_up: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LOOK_UP_SECONDS", 2.0)
    began = time.monotonic()
    answers = list(pool.map(lambda _: client.post("/v1/webhooks", json=SLOW), range(MANY)))
    assert time.monotonic() - began < 60, "none waits for the one before it"
    assert looked_up.here == 4, "so many at once, and none that nobody waits for any more"
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "refused_address")
        (fault,) = answer.json()["errors"]
        assert fault["pointer"] == "/url"
        assert "'slow.example' could not be looked up within 2 seconds" in fault["detail"]
    looked_up.opened.set()
    monkeypatch.setattr(webhooks, "LOOK_UP_SECONDS", 600.0)
    assert client.post("/v1/webhooks", json=SLOW).status_code == 201


def test_fronts_that_take_long(
    client: TestClient,
    store: SqlStore,
    fill: Callable[[Store], str],
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, scored, search = Gate(), standings.scored, fill(store)

    def slowly(*of: Any) -> Any:
        gate.wait()
        return scored(*of)

    monkeypatch.setattr(standings, "scored", slowly)
    try:
        asked = [pool.submit(client.get, f"/v1/searches/{search}/pareto") for _ in range(MANY)]
        assert gate.entered.wait(120)
        assert client.get(f"/v1/searches/{search}").status_code == 200
        assert not any(each.done() for each in asked)
    finally:
        gate.opened.set()
    assert {each.result(120).status_code for each in asked} == {200}
