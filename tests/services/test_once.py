"""Orders that come more than once, and changes by several at once."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from automl_prune.errors import UserError
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from services.api.app import create_app
from services.cli import client as cli
from services.settings import Settings

Order = Callable[..., dict[str, Any]]
Fill = Callable[[Store], str]


def post(client: TestClient, body: Any, key: str | None = "key-1") -> Any:
    return client.post("/v1/searches", json=body, headers={"Idempotency-Key": key} if key else {})


def ordered(store: SqlStore) -> int:
    return len(store.list_searches(limit=100))


def test_the_same_order_again_is_the_same_answer(client: TestClient, store: SqlStore, order: Order) -> None:
    first = post(client, order(seed=1))
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    job = store.claim(lease_seconds=60)
    assert job is not None
    store.set_state(job.id, job.attempt, SearchState.RUNNING, reason="evaluating", info={"evaluations": 3})
    store.update_search(job.id, name="renamed", labels={"a": "b"}, priority=3)
    again = post(client, dict(reversed(order(seed=1.0, controls=["uniform", "random"]).items())))
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"] == f"/v1/searches/{job.id}"
    assert again.headers["idempotent-replayed"] == "true"
    assert ordered(store) == 1
    assert post(client, order(seed=1), "key-2").json()["id"] != job.id
    assert post(client, order(seed=1), None).json()["id"] != job.id
    assert ordered(store) == 3


def test_another_order_under_the_same_key_is_refused(client: TestClient, store: SqlStore, order: Order) -> None:
    post(client, order(seed=1))
    refused = post(client, order(seed=2))
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_conflict")
    assert ordered(store) == 1


def test_a_refused_order_keeps_no_key(client: TestClient, store: SqlStore, order: Order) -> None:
    assert post(client, order(search_space={"name": "none"})).status_code == 422
    assert post(client, order(budgets=[{"metric": "macs", "max": 1}])).status_code == 422
    accepted = post(client, order())
    assert (accepted.status_code, "idempotent-replayed" in accepted.headers) == (201, False)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "k\té", "\x7f"])
def test_keys_are_short_and_visible(client: TestClient, store: SqlStore, order: Order, key: str) -> None:
    refused = client.post("/v1/searches", json=order(), headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/header/Idempotency-Key")
    assert ordered(store) == 0
    assert post(client, order(), "!" * 255).status_code == 201


def test_an_order_that_came_before_is_answered_whatever_is_full_or_gone_by_now(
    store: SqlStore, settings: Settings, order: Order
) -> None:
    reviewed: list[SearchSpec] = []

    def review(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        reviewed.append(spec)
        if len(reviewed) > 1:
            raise UserError("The weights are gone.")
        return {}

    app = create_app(store, settings.model_copy(update={"max_queued": 1}), review)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        first = post(client, order())
        again = post(client, order())
        other = post(client, order(seed=2))
        assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
        assert len(reviewed) == 1
        assert post(client, order(), "key-2").json()["detail"] == "The weights are gone."
    assert ordered(store) == 1


def test_a_full_queue_still_refuses_what_is_new(store: SqlStore, settings: Settings, order: Order) -> None:
    app = create_app(store, settings.model_copy(update={"max_queued": 1}), lambda spec, tenant: {})
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert post(client, order()).status_code == 201
        refused = post(client, order(), "key-2")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_queued")
        assert post(client, order()).status_code == 201
    assert ordered(store) == 1


@pytest.mark.parametrize("max_queued", [1, 1000])
def test_of_orders_at_the_same_moment_one_makes_a_search(
    store: SqlStore, settings: Settings, order: Order, max_queued: int
) -> None:
    together = threading.Barrier(6)

    def review(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        together.wait(20)
        return {}

    app = create_app(store, settings.model_copy(update={"max_queued": max_queued}), review)
    with TestClient(app, base_url="http://127.0.0.1") as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(client, order()), range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 5
    assert ordered(store) == 1


def test_submit_sends_an_order_again_whose_answer_got_lost(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_PAUSES", (0.01, 0.01))
    behind, keys = serve(app), []

    class Losing(BaseHTTPRequestHandler):
        """A proxy that passes on what comes, and loses the first answer."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            keys.append(self.headers["Idempotency-Key"])
            headers = {"Idempotency-Key": keys[-1], "Content-Type": "application/json"}
            answer = httpx.post(f"{behind}/v1/searches", content=body, headers=headers, timeout=60, trust_env=False)
            if len(keys) == 1:
                return
            self.send_response(answer.status_code)
            self.send_header("Automl-Prune-Api", answer.headers["Automl-Prune-Api"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Losing) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        with cli.Client(f"http://127.0.0.1:{proxy.server_port}") as client:
            search = client.submit(order())
        proxy.shutdown()
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert [job.id for job in store.list_searches()] == [search["id"]]


def test_what_did_not_change_is_not_sent_again(client: TestClient, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    path = f"/v1/searches/{job_id}"
    seen = client.get(path)
    tag = seen.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        same = client.get(path, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).json() == seen.json()
    store.record_start(job_id, 1, 12)
    later = client.get(path, headers={"If-None-Match": tag})
    assert later.status_code == 200
    assert later.json()["progress"]["running"] == 1


def test_a_search_is_changed_by_those_who_saw_it(client: TestClient, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    path = f"/v1/searches/{job_id}"
    tag = client.get(path).headers["etag"]
    store.record_start(job_id, 1, 12)
    changed = client.patch(path, json={"name": "new", "labels": {"a": "b"}, "priority": 7}, headers={"If-Match": tag})
    assert changed.status_code == 200
    shown = changed.json()
    assert (shown["name"], shown["labels"]) == ("new", {"team": "edge", "a": "b"})
    assert store.get_search(job_id).priority == 7
    assert changed.headers["etag"] == client.get(path).headers["etag"] != tag
    stale = client.patch(path, json={"name": "mine"}, headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert client.get(path).json()["name"] == "new"
    merged = client.patch(path, json={"name": None, "labels": {"team": None}}, headers={"If-Match": "*"}).json()
    assert (merged["name"], merged["labels"]) == (None, {"a": "b"})
    assert client.patch(path, json={}).json()["labels"] == {"a": "b"}
    weak = client.patch(path, json={}, headers={"If-Match": f"W/{client.get(path).headers['etag']}"})
    assert weak.status_code == 412


def test_a_faulty_change_changes_nothing(client: TestClient, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    path = f"/v1/searches/{job_id}"
    before = store.get_search(job_id)
    faulty = [
        ({"priority": "7"}, "/priority"),
        ({"priority": 10**6}, "/priority"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {str(i): "" for i in range(33)}}, "/labels"),
        ({"seed": 1}, "/seed"),
        ({"name": "x" * 201}, "/name"),
        ([], ""),
    ]
    for change, pointer in faulty:
        refused = client.patch(path, json=change)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    assert client.patch(path, content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.patch("/v1/searches/srch_unknown", json={}).status_code == 404
    assert store.get_search(job_id) == before
    store.set_state(job_id, 1, SearchState.SUCCEEDED)
    assert client.patch(path, json={"priority": 1}).status_code == 409


def test_changes_by_many_at_once_all_count(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: client.patch(path, json={"labels": {f"l{i}": "x"}}), range(12)))
    done = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(client.get(path).json()["labels"]) == 1 + done >= 4
