import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from automl_prune.storage.sql import SqlStore
from automl_prune.storage.webhooks import Webhooks
from services.settings import Settings
from services.webhooks import guard
from services.webhooks.sender import SLOTS_OF_TENANT, Sender
from tests.services.receivers import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as here:
        yield here


@pytest.fixture(autouse=True)
def _patience_with_slow_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS", 60.0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})


class Asked(Counter[str]):
    """How often something was asked for, by threads at the same time."""

    _turn = threading.Lock()

    def note(self, path: str) -> None:
        with self._turn:
            self[path] += 1


def test_slow_receivers_of_one_tenant_keep_no_other_waiting(store: SqlStore, settings: Settings, receiver: Receiver) -> None:
    webhooks, release, full, arrived = Webhooks(store), threading.Event(), threading.Event(), threading.Event()
    asked = Asked()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.note(handler.path)
        if handler.path == "/quick":
            arrived.set()
        elif asked["/slow"] >= SLOTS_OF_TENANT:
            full.set()
        if handler.path == "/slow":
            release.wait(60)
        handler.send_response(204)

    receiver.answer = answer
    for _ in range(20):
        webhooks.create("slow", receiver.at("/slow"), "s" * 16, {"search.state"})
    webhooks.create("quick", receiver.at("/quick"), "s" * 16, {"search.state"})
    for _ in range(10):
        store.add_search({}, name=None, labels={}, tenant="slow")
    try:
        with Sender(webhooks, settings).running():
            assert full.wait(30)
            store.add_search({}, name=None, labels={}, tenant="quick")
            assert arrived.wait(30), "less than a slow receiver is given"
            assert asked["/slow"] == SLOTS_OF_TENANT
            release.set()
    finally:
        release.set()


def test_a_slot_is_used_again_as_soon_as_it_is_free(store: SqlStore, settings: Settings, receiver: Receiver) -> None:
    webhooks, release, done = Webhooks(store), threading.Event(), threading.Event()
    asked = Asked()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.note(handler.path)
        if asked["/quick"] == 10:
            done.set()
        if handler.path == "/slow":
            release.wait(60)
        handler.send_response(204)

    receiver.answer = answer
    for path in ("/slow", "/quick"):
        webhooks.create("default", receiver.at(path), "s" * 16, {"search.state"})
    for _ in range(10):
        store.add_search({}, name=None, labels={})
    try:
        with Sender(webhooks, settings).running():
            assert done.wait(30), "less than a slow receiver is given"
            release.set()
    finally:
        release.set()


def test_a_webhook_gets_one_event_at_a_time_in_order_however_many_send(
    store: SqlStore, settings: Settings, receiver: Receiver
) -> None:
    webhooks, here, most = Webhooks(store), threading.Semaphore(1), []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        most.append(here.acquire(blocking=False))
        time.sleep(0.01)
        here.release()
        handler.send_response(204)

    receiver.answer = answer
    webhooks.create("default", receiver.url, "s" * 16, {"search.state"})
    for _ in range(12):
        store.add_search({}, name=None, labels={})
    webhooks.spread()

    def work(sender: Sender) -> None:
        with ThreadPoolExecutor(4) as pool:
            while len(receiver.got) < 12:
                sender.step(pool)
            while sender.step(pool):
                pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [Sender(Webhooks(store), settings) for _ in range(3)]))
    assert all(most)
    assert [json.loads(body)["id"] for _, body in receiver.got] == [event.id for event in store.events(tenant="default")]
