import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpcore
import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage import webhooks as storage
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.webhooks import Webhooks
from services.settings import Settings
from services.webhooks import guard, signing
from services.webhooks.sender import Sender
from tests.services.receivers import Receiver, receiving

Fill = Callable[[Store], str]
SECRET = "a secret of sixteen"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(guard, "SECONDS", 60.0)
    with receiving() as here:
        yield here


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})


@pytest.fixture
def send(store: SqlStore, settings: Settings) -> Iterator[Callable[[], None]]:
    """Sends whatever is due."""
    webhooks = Webhooks(store)
    sender = Sender(webhooks, settings)
    with ThreadPoolExecutor(2) as pool:

        def work() -> None:
            while webhooks.spread():
                pass
            while sender.step(pool):
                pass

        yield work


def again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0,) * 8)


def create(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/webhooks", json=body)


def test_what_happens_is_sent_signed(
    client: TestClient, store: SqlStore, fill: Fill, receiver: Receiver, send: Callable[[], None]
) -> None:
    fill(store)
    made = create(client, url=receiver.url, secret=SECRET, events=["search.state", "end"])
    assert made.status_code == 201
    job = store.add_search({}, name=None, labels={})
    send()
    store.request_cancel(job.id)
    send()
    told = [json.loads(body) for _, body in receiver.got]
    assert [(t["event"], t["state"]) for t in told] == [
        ("search.state", "queued"),
        ("search.state", "cancelled"),
        ("end", "cancelled"),
    ]
    assert [t["id"] for t in told] == [event.id for event in store.events(job.id)]
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        assert headers["content-type"] == "application/json"
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 3


def test_a_secret_is_shown_once(client: TestClient, receiver: Receiver) -> None:
    made = create(client, url=receiver.url).json()
    key = made.pop("secret").removeprefix("whsec_")
    assert len(base64.b64decode(key)) == 32
    assert client.get("/v1/webhooks").json() == {"items": [made], "next_page_token": None}
    assert made["events"] == ["best.updated", "end", "search.state"]
    own = create(client, url=receiver.url, secret=SECRET)
    assert SECRET not in client.get("/v1/webhooks").text
    assert client.delete(own.headers["location"]).status_code == 204
    assert client.delete(own.headers["location"]).json()["code"] == "not_found"
    assert client.get("/v1/webhooks").json()["items"] == [made]


def test_secrets_that_are_base64_are_decoded() -> None:
    signed = signing.headers("whsec_" + base64.b64encode(b"key").decode(), "dlv_1", 7, b"{}")["webhook-signature"]
    assert signed == "v1," + base64.b64encode(hmac.digest(b"key", b"dlv_1.7.{}", hashlib.sha256)).decode()
    assert signing.headers("whsec_no base64", "dlv_1", 7, b"{}")["webhook-signature"].startswith("v1,")


def test_what_failed_is_sent_again_with_the_same_id(
    client: TestClient,
    store: SqlStore,
    receiver: Receiver,
    send: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again_at_once(monkeypatch)
    create(client, url=receiver.url)
    receiver.answer = lambda handler: handler.send_response(500 if len(receiver.got) < 4 else 200)
    store.add_search({}, name=None, labels={})
    send()
    assert len(receiver.got) == 4
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert client.get("/v1/webhooks").json()["items"][0]["failures"] == 0


def test_pauses_grow_and_what_fails_too_often_is_given_up(
    client: TestClient, store: SqlStore, receiver: Receiver, send: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSES", storage.PAUSES[5:])  # hours
    create(client, url=receiver.url)
    receiver.answer = lambda handler: handler.send_response(500)
    store.add_search({}, name=None, labels={})
    send()
    send()
    assert len(receiver.got) == 1
    again_at_once(monkeypatch)
    monkeypatch.setattr(storage, "PAUSES", (0.0,) * 3)
    store.add_search({}, name=None, labels={})
    send()
    assert len(receiver.got) == 1 + 4


def test_a_webhook_that_only_fails_is_disabled(
    client: TestClient, store: SqlStore, receiver: Receiver, send: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    again_at_once(monkeypatch)
    create(client, url=receiver.url)
    receiver.answer = lambda handler: handler.send_response(503)
    for _ in range(4):
        store.add_search({}, name=None, labels={})
    send()
    assert len(receiver.got) == storage.PATIENCE
    (shown,) = client.get("/v1/webhooks").json()["items"]
    assert shown["disabled_at"] is not None
    store.add_search({}, name=None, labels={})
    before = len(receiver.got)
    send()
    assert len(receiver.got) == before
    receiver.answer = lambda handler: handler.send_response(200)
    enabled = client.post(f"/v1/webhooks/{shown['id']}:enable")
    assert (enabled.status_code, enabled.json()) == (200, shown | {"disabled_at": None, "failures": 0})
    send()
    given_up = storage.PATIENCE // (len(storage.PAUSES) + 1)
    arrived = [json.loads(body)["id"] for _, body in receiver.got[before:]]
    assert arrived == [event.id for event in store.events(tenant="default")][given_up:]


def test_redirects_are_not_followed(
    client: TestClient, store: SqlStore, receiver: Receiver, send: Callable[[], None]
) -> None:
    def away(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", receiver.url)

    create(client, url=receiver.url)
    receiver.answer = away
    store.add_search({}, name=None, labels={})
    send()
    assert len(receiver.got) == 1
    assert client.get("/v1/webhooks").json()["items"][0]["failures"] == 1


def test_answers_are_small_and_fast(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("X-Long", "y" * 60_000)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 10_000)

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for _ in range(500):
            handler.send_header("X", "y")
            handler.flush_headers()
            time.sleep(0.05)

    receiver.answer = endless
    with pytest.raises(httpcore.ReadError, match="65536 bytes"):
        guard.post(receiver.url, b"{}", {}, ["127.0.0.1"])
    monkeypatch.setattr(guard, "SECONDS", 3.0)
    receiver.answer = dripping
    began = time.monotonic()
    with pytest.raises((httpcore.ReadTimeout, httpcore.ReadError)):
        guard.post(receiver.url, b"{}", {}, ["127.0.0.1"])
    assert time.monotonic() - began < 20


PRIVATE = [
    "https://127.0.0.2/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://localhost/",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.1.2.3/",
    "https://192.168.0.1:8443/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fe80::1%25lo]/",
    "https://[fd00::1]/",
    "https://224.0.0.1/",
]
MALFORMED = [
    "http://example.org/",
    "ftp://example.org/",
    "file:///etc/passwd",
    "https://",
    "https://user:word@example.org/",
    "https://example.org/#part",
    "https://exa mple.org/",
    "https://example.org:99999/",
    "https://[::1",
    "example.org",
    "https://example.org/" + "x" * 2000,
]


@pytest.mark.parametrize("url", PRIVATE + MALFORMED)
def test_addresses_that_are_refused_at_once(client: TestClient, url: str) -> None:
    refused = create(client, url=url)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/url")
    assert client.get("/v1/webhooks").json()["items"] == []


@pytest.mark.parametrize(
    "body", [[], {}, {"url": 1}, {"url": "https://a", "events": ["x"]}, {"url": "https://a", "more": 1}]
)
def test_faulty_orders(client: TestClient, body: Any) -> None:
    assert client.post("/v1/webhooks", json=body).json()["code"] == "invalid_spec"
    short = create(client, url="https://a", secret="hunter2")
    assert short.status_code == 422
    assert "hunter2" not in short.text


def test_a_name_that_changes_its_mind_is_refused_when_connecting(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    monkeypatch.setattr(guard, "resolve", lambda host, port: next(answers))
    with pytest.raises(guard.RefusedAddressError, match="private"):
        guard.post(f"https://rebinding.example:{receiver.port}/", b"{}", {}, ())
    assert not receiver.got


def test_one_private_address_among_public_ones_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "resolve", lambda host, port: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(guard.RefusedAddressError):
        guard.post("https://mixed.example/", b"{}", {}, ())


def test_the_other_end_of_the_connection_is_checked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the network led the checked address elsewhere."""
    real = socket.create_connection
    monkeypatch.setattr(guard, "resolve", lambda host, port: ["93.184.215.14"])
    monkeypatch.setattr(
        socket, "create_connection", lambda address, *rest, **more: real(("127.0.0.1", address[1]), *rest, **more)
    )
    with pytest.raises(guard.RefusedAddressError):
        guard.post(f"https://far.example:{receiver.port}/", b"{}", {}, ())
    assert not receiver.got


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert guard.post(receiver.url, b"{}", {}, ["127.0.0.1"]) == 204


def test_certificates_are_checked(receiver: Receiver) -> None:
    with pytest.raises((httpcore.ConnectError, ssl.SSLError)):
        guard.post(f"https://127.0.0.1:{receiver.port}/", b"{}", {}, ["127.0.0.1"])


def test_a_sender_works_beside_a_launcher(
    client: TestClient, store: SqlStore, settings: Settings, fill: Fill, receiver: Receiver
) -> None:
    create(client, url=receiver.url, events=["end"])
    job = store.get_search(fill(store))
    arrived = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        arrived.set()
        handler.send_response(200)

    receiver.answer = answer
    with Sender(Webhooks(store), settings).running():
        store.set_state(job.id, job.attempt, SearchState.SUCCEEDED)
        assert arrived.wait(120)
    assert json.loads(receiver.got[0][1])["event"] == "end"


def test_senders_share_the_work(client: TestClient, store: SqlStore, settings: Settings, receiver: Receiver) -> None:
    for _ in range(3):
        create(client, url=receiver.url)
    for _ in range(6):
        store.add_search({}, name=None, labels={})
    assert Webhooks(store).spread() == 18
    senders = [Sender(Webhooks(store), settings) for _ in range(3)]

    def work(sender: Sender) -> None:
        with ThreadPoolExecutor(2) as pool:
            while sender.step(pool):
                pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, senders))
    assert len(receiver.got) == 18
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 18


def test_a_webhook_that_is_not_there_is_not_enabled(client: TestClient) -> None:
    refused = client.post("/v1/webhooks/whk_0:enable")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_there_are_only_so_many(client: TestClient, receiver: Receiver) -> None:
    for _ in range(storage.MOST):
        assert create(client, url=receiver.url).status_code == 201
    assert create(client, url=receiver.url).status_code == 409
