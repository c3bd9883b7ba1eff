"""What users may do to searches, what they are told while one waits, and how much they may order."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.job import SearchState
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.keys import ApiKeys, KeyLimits
from automl_prune.storage.sql import SqlStore
from services.api.app import create_app
from services.api.context import Review
from services.launcher.liveness import Mark
from services.launcher.running import said_of_exit
from services.settings import Settings, load_settings

Order = Callable[..., dict[str, Any]]


def placed(client: TestClient, order: Order, **changes: Any) -> str:
    response = client.post("/v1/searches", json=order(**changes))
    assert response.status_code == 201, response.text
    found: str = response.json()["id"]
    return found


def reason(client: TestClient, search_id: str) -> str:
    found: str = client.get(f"/v1/searches/{search_id}").json()["state_reason"]
    return found


def test_a_queued_search_pauses_and_resumes(client: TestClient, store: SqlStore, order: Order) -> None:
    search_id = placed(client, order)
    paused = client.post(f"/v1/searches/{search_id}:pause")
    assert (paused.status_code, paused.json()["state"]) == (202, "paused")
    assert store.claim(lease_seconds=600) is None
    again = client.post(f"/v1/searches/{search_id}:resume")
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    refused = client.post(f"/v1/searches/{search_id}:resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "state_conflict")
    assert store.claim(lease_seconds=600) is not None
    assert client.post(f"/v1/searches/{search_id}:pause").json()["state"] == "preparing", "its driver gives it back"
    assert store.get_search(search_id).pause_requested


def test_what_has_ended_cannot_be_paused(client: TestClient, order: Order) -> None:
    search_id = placed(client, order)
    client.post(f"/v1/searches/{search_id}:cancel")
    for verb in ("pause", "resume"):
        response = client.post(f"/v1/searches/{search_id}:{verb}")
        assert (response.status_code, response.json()["code"]) == (409, "state_conflict")
        assert client.post(f"/v1/searches/srch_unknown:{verb}").status_code == 404


def test_a_queued_search_says_what_it_waits_for(
    client: TestClient, store: SqlStore, order: Order, settings: Settings
) -> None:
    Mark(settings).renew(slots=2, taken=1)
    first, second, urgent = placed(client, order), placed(client, order), placed(client, order, priority=5)
    assert reason(client, urgent) == "queued: next, a launcher has a free slot"
    assert (reason(client, first), reason(client, second)) == ("queued: 1 ahead", "queued: 2 ahead")
    job = store.claim(lease_seconds=600)
    assert job is not None
    assert (job.id, job.priority) == (urgent, 5), "the higher priority goes first"
    assert reason(client, urgent) == "starting a driver"
    Mark(settings).renew(slots=2, taken=2)
    assert reason(client, first) == "queued: waiting for a free slot (limit of 2 running searches)"
    store.release(job.id, job.attempt, reason="it was ended by SIGKILL", lost=True, most_losses=3)
    assert reason(client, urgent).endswith("(queued again: driver 1 of at most 3 was lost: it was ended by SIGKILL)")


def test_a_queued_search_says_when_no_launcher_starts_anything(client: TestClient, order: Order, settings: Settings) -> None:
    first, second = placed(client, order), placed(client, order)
    assert reason(client, first) == "queued: next; no launcher has been seen"
    assert reason(client, second) == "queued: 1 ahead; no launcher has been seen"
    Mark(settings).renew(trouble="Ray cannot be reached since noon")
    assert reason(client, first) == "queued: next; Ray cannot be reached since noon"
    other = settings.home / "launchers" / "other-machine"
    other.write_text('{"slots": 1, "taken": 0, "trouble": null}')
    assert reason(client, first) == "queued: next, a launcher has a free slot"
    assert {item["state_reason"] for item in client.get("/v1/searches").json()["items"]} == {
        "queued: next, a launcher has a free slot",
        "queued: 1 ahead",
    }
    for file in other.parent.iterdir():
        os.utime(file, (1_800_000_000, 1_800_000_000 - 86_400 * 365))
    assert reason(client, first) == "queued: next; no launcher has been seen since 2026-01-15 08:00:00 UTC"


def test_a_search_whose_driver_and_launchers_are_gone_says_so(client: TestClient, store: SqlStore, order: Order) -> None:
    search = placed(client, order)
    store.claim(lease_seconds=600)
    store.set_state(search, 1, SearchState.RUNNING, reason="evaluating candidates")
    assert reason(client, search) == "evaluating candidates"
    store.renew(search, 1, lease_seconds=-60)
    since = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(rf"its driver has been silent since {since}; waiting for a launcher", reason(client, search))


@pytest.mark.parametrize("priority", [101, -101, 1.5])
def test_priorities_have_limits(client: TestClient, order: Order, priority: float) -> None:
    response = client.post("/v1/searches", json=order(priority=priority))
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/priority")


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, max_queued=2, max_trials=50)


def test_too_many_waiting_searches_are_refused(store: SqlStore, small: Settings, review: Review, order: Order) -> None:
    with TestClient(create_app(store, small, review), base_url="http://127.0.0.1") as client:
        first = placed(client, order)
        placed(client, order)
        refused = client.post("/v1/searches", json=order())
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_queued")
        assert "2 of your searches wait or are paused already" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        client.post(f"/v1/searches/{first}:pause")
        assert client.post("/v1/searches", json=order()).status_code == 429, "it can be resumed at any time"
        client.post(f"/v1/searches/{first}:cancel")
        placed(client, order)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_orders_at_the_same_moment_keep_the_limit(store: SqlStore, small: Settings, review: Review, order: Order) -> None:
    with TestClient(create_app(store, small, review), base_url="http://127.0.0.1") as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: client.post("/v1/searches", json=order()).status_code, range(8))
        assert sorted(answers) == [201] * 2 + [429] * 6


def test_too_large_an_order_is_refused_with_its_field(
    store: SqlStore, small: Settings, review: Review, order: Order
) -> None:
    with TestClient(create_app(store, small, review), base_url="http://127.0.0.1") as client:
        response = client.post("/v1/searches", json=order(trials={"max": 51}))
        (error,) = response.json()["errors"]
        assert (response.status_code, error["pointer"], error["code"]) == (422, "/trials/max", "limit")
        assert "use 50 or less" in error["detail"]


@pytest.mark.parametrize("path", ["/v1/searches", "/v1/searches:validate"])
def test_what_may_not_be_ordered_is_refused_before_it_is_looked_into(
    store: SqlStore, small: Settings, order: Order, path: str
) -> None:
    looked: list[str] = []

    def review(spec: SearchSpec, tenant: str) -> dict[str, Any]:
        looked.append(tenant)
        return {}

    with TestClient(create_app(store, small, review), base_url="http://127.0.0.1") as client:
        refused = client.post(path, json=order(trials={"max": 51}))
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/trials/max")
        assert looked == []
        assert client.post(path, json=order(trials={"max": 50})).status_code < 300
        assert looked == ["default"]


def test_a_service_may_limit_how_long_searches_last(store: SqlStore, small: Settings, review: Review, order: Order) -> None:
    limited = small.model_copy(update={"max_seconds": 3600})
    with TestClient(create_app(store, limited, review), base_url="http://127.0.0.1") as client:
        for trials in ({"max": 8}, {"max": 8, "max_seconds": 3601}):
            (error,) = client.post("/v1/searches", json=order(trials=trials)).json()["errors"]
            assert (error["pointer"], error["code"]) == ("/trials/max_seconds", "limit")
            assert "at most 3600 seconds" in error["detail"]
        placed(client, order, trials={"max": 8, "max_seconds": 3600})


def test_the_weights_that_were_checked_are_noted_in_the_order(store: SqlStore, small: Settings, order: Order) -> None:
    """Not in what its key stands for: the same order is the same, whatever was found."""
    found = iter("ab")

    def review(spec: SearchSpec, tenant: str) -> dict[str, Any]:
        return {"weights_sha256": next(found) * 64}

    with TestClient(create_app(store, small, review), base_url="http://127.0.0.1") as client:
        send = partial(client.post, "/v1/searches", json=order(weights="x.pt"), headers={"Idempotency-Key": "k"})
        first, again = send(), send()
    assert first.json() == again.json()
    assert first.json()["spec"]["weights_sha256"] == "a" * 64
    assert store.get_search(first.json()["id"]).spec["weights_sha256"] == "a" * 64


def test_a_key_may_have_less(store: SqlStore, settings: Settings, review: Review, order: Order) -> None:
    limits = KeyLimits(queued=1, running=1, trials=10, parallel=1)
    keys = ApiKeys(store.database)
    key, token = keys.create("small", limits=limits)
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(create_app(store, settings, review), base_url="http://127.0.0.1", headers=headers) as client:
        response = client.post("/v1/searches", json=order(trials={"max": 11, "parallel": 2}))
        assert [e["pointer"] for e in response.json()["errors"]] == ["/trials/max", "/trials/parallel"]
        running = placed(client, order, trials={"max": 8, "parallel": 1})
        assert store.claim(lease_seconds=600, limits=keys.running_limits()) is not None
        Mark(settings).renew()
        waiting = placed(client, order, trials={"max": 8, "parallel": 1})
        assert store.claim(lease_seconds=600, limits=keys.running_limits()) is None
        assert reason(client, waiting) == (
            "queued: waiting for another one of the same key to end (its limit of 1 running search)"
        )
        assert store.get_search(running).state is SearchState.PREPARING
        refused = client.post("/v1/searches", json=order(trials={"max": 8, "parallel": 1}))
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_queued")
        keys.create("large")
        keys.revoke(key.id)
        assert store.claim(lease_seconds=600, limits=keys.running_limits()) is None, "its limits are those of its searches"


def test_a_key_goes_before_others_only_where_it_may(
    store: SqlStore, settings: Settings, review: Review, order: Order
) -> None:
    keys = ApiKeys(store.database)
    tokens = {most: keys.create("key", limits=KeyLimits(priority=most))[1] for most in (0, 7)}
    with TestClient(create_app(store, settings, review), base_url="http://127.0.0.1") as client:
        for most, token in tokens.items():
            client.headers["X-API-Key"] = token
            search_id = placed(client, order, priority=most)
            refusals = (
                client.post("/v1/searches", json=order(priority=most + 1)),
                client.patch(f"/v1/searches/{search_id}", json={"priority": most + 1}),
            )
            for refused in refusals:
                (error,) = refused.json()["errors"]
                assert (refused.status_code, error["pointer"], error["code"]) == (422, "/priority", "limit")
                assert f"use {most} or less" in error["detail"]
            assert client.patch(f"/v1/searches/{search_id}", json={"name": "new"}).status_code == 200
            assert client.patch(f"/v1/searches/{search_id}", json={"priority": most - 1}).status_code == 200


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "it ended with exit code 1"),
        (-9, "it was ended by SIGKILL (exit 137, out of memory?)"),
        (-11, "it was ended by SIGSEGV (exit 139)"),
    ],
)
def test_how_a_driver_ended_is_told_in_words(code: int, said: str) -> None:
    assert said_of_exit(code) == said
