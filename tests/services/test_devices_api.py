"""Devices over HTTP: registered, asked for work, measured; and everything that is refused."""

import json
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from automl_prune.latency.conditions import DeviceDescription
from automl_prune.latency.registered import Measurement, MeasurementState
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.times import Times
from automl_prune.storage.keys import ApiKeys, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.testing.store_devices import GOOD, HOW, PI, WORKS, put
from services.api import devices as routes
from services.api.app import create_app
from services.settings import Settings
from tests.services.waiting import until

ABOUT = {"name": "pi", "description": PI.to_json()}


@pytest.fixture
def batch(devices: SqlDevices) -> list[Measurement]:
    """Work for ``pi``, of the tenant that asks without a key."""
    return put(devices, tenant="default")


def epoch(client: TestClient) -> str:
    """Of the agent of ``pi`` that registered last."""
    devices: SqlDevices = client.app.state.devices  # type: ignore[attr-defined]
    return devices.device("default", "pi").epoch or ""


def claim(client: TestClient, **options: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/devices/pi/claims", json={"epoch": epoch(client), **options})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def report(client: TestClient, item: dict[str, Any], device: str = "pi", **changes: Any) -> Any:
    body = {"epoch": epoch(client), "attempt": item["attempt"], "conditions": item["conditions"], "timing": GOOD.to_json()}
    body |= changes
    raw = json.dumps({name: value for name, value in body.items() if value is not ...})
    path = f"/v1/devices/{device}/measurements/{item['id']}"
    return client.post(path, content=raw, headers={"Content-Type": "application/json"})


def test_a_device_is_listed_beside_the_built_in_one(client: TestClient) -> None:
    made = client.post("/v1/devices", json=ABOUT)
    assert made.status_code == 200, made.text
    assert made.json()["lease_seconds"] == 30
    local, pi = client.get("/v1/devices").json()["items"]
    assert (local["name"], local["kind"], local["alive"], local["last_seen_at"]) == ("local", "built-in", True, None)
    assert "torch" in local["runtimes"]
    assert local["fingerprint"]["cores"] >= 1
    assert pi == client.get("/v1/devices/pi").json() | {"silent_seconds": pi["silent_seconds"]}
    assert (pi["alive"], pi["measured"], pi["failed"], pi["noise"]) == (True, 0, 0, None)
    assert {"fingerprint": pi["fingerprint"], "runtimes": pi["runtimes"]} == PI.to_json()
    assert client.get("/v1/devices/local").json() == local
    assert client.get("/v1/devices/pi5").status_code == 404


def test_devices_say_what_was_timed_there(client: TestClient, settings: Settings, devices: SqlDevices) -> None:
    devices.register("default", "pi", PI)
    folder, here = settings.cache_dir / "latency", describe_this_machine()
    ours = DeviceDescription({**PI.fingerprint, "agent": "default/pi"}, PI.runtimes)
    before = client.get("/v1/devices/local").json()
    assert (before["measured"], before["noise"], before["timed"]) == (0, None, [])
    for description in (here, ours):
        times = Times.of(folder, description, HOW)
        for one in WORKS:
            times.add(one, GOOD)
    local, pi = client.get("/v1/devices").json()["items"]
    assert (local["measured"], local["noise"]) == (len(WORKS), pytest.approx(GOOD.error))
    for device, version in ((local, here.runtimes["torch"]), (pi, "2.6")):
        (timed,) = device["timed"]
        assert (timed["runtime"], timed["threads"], timed["version"]) == ("torch", 2, version)
        assert (timed["blocks"], timed["networks"]) == (3, {"n": 1})


def test_a_device_that_is_not_heard_of_is_not_alive(store: SqlStore, settings: Settings, devices: SqlDevices) -> None:
    devices.register("default", "pi", PI)
    app = create_app(store, settings.model_copy(update={"device_silent_seconds": 0.01}), lambda spec, tenant: {})
    with TestClient(app, base_url="http://127.0.0.1") as client:
        time.sleep(0.02)
        assert client.get("/v1/devices/pi").json()["alive"] is False


ON_PI: dict[str, Any] = {"budgets": [{"metric": "macs", "max": 1}, {"metric": "latency_ms", "max": 3, "device": "pi"}]}


def test_a_device_is_removed_unless_a_search_needs_it(
    client: TestClient, store: SqlStore, settings: Settings, devices: SqlDevices
) -> None:
    put(devices, tenant="default")
    assert client.delete("/v1/devices/pi").status_code == 204
    assert [item["name"] for item in client.get("/v1/devices").json()["items"]] == ["local"]
    assert client.delete("/v1/devices/pi").status_code == 404
    assert client.delete("/v1/devices/local").status_code == 409
    client.post("/v1/devices", json=ABOUT)
    store.add_search({"budgets": [{"metric": "latency_ms", "max": 3}]}, name=None, labels={})
    search = store.add_search(ON_PI, name=None, labels={})
    refused = client.delete("/v1/devices/pi")
    assert refused.status_code == 409
    assert f"Search '{search.id}' has a budget on 'pi', which is alive" in refused.json()["detail"]
    silent = create_app(store, settings.model_copy(update={"device_silent_seconds": 0.01}), lambda spec, tenant: {})
    with TestClient(silent, base_url="http://127.0.0.1") as other:
        time.sleep(0.02)
        assert other.delete("/v1/devices/pi").status_code == 204
    client.post("/v1/devices", json=ABOUT)
    store.request_cancel(search.id)
    assert client.delete("/v1/devices/pi").status_code == 204


def test_work_is_claimed_and_measurements_are_kept(
    client: TestClient, devices: SqlDevices, batch: list[Measurement]
) -> None:
    items = claim(client, most=3)
    assert [item["work"] for item in items] == json.loads(json.dumps([work.to_json() for work in WORKS[:3]]))
    assert {(item["attempt"], item["state"]) for item in items} == {(1, "running")}
    assert report(client, items[0]).json()["state"] == "done"
    assert report(client, items[0]).status_code == 200, "its answer may have been lost"
    assert report(client, items[1], timing=None, error="It is too large.").json()["state"] == "failed"
    ended = devices.results("default", batch[0].batch, wanted_seconds=60)
    assert [(one.timing, one.error) for one in ended] == [(GOOD, None), (None, "It is too large.")]
    held = [{"id": item["id"], "attempt": 1} for item in items]
    renewed = client.post("/v1/devices/pi:renew", json={"epoch": epoch(client), "measurements": held}).json()
    assert renewed["lost"] == sorted(item["id"] for item in items[:2])
    pi = client.get("/v1/devices/pi").json()
    assert (pi["measured"], pi["failed"], pi["noise"]) == (1, 1, pytest.approx(GOOD.error))


def test_a_claim_waits_for_work(client: TestClient, devices: SqlDevices) -> None:
    devices.register("default", "pi", PI)
    began = time.monotonic()
    assert claim(client, wait_seconds=0.6) == []
    assert time.monotonic() - began >= 0.6
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: claim(client, wait_seconds=8))
        time.sleep(0.3)
        put(devices, tenant="default")
        assert len(waiting.result(20)) == 4


def test_of_one_device_one_claim_waits_and_gets_the_work(
    client: TestClient, devices: SqlDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]  # while it stands still, no claim has waited for long enough
    monkeypatch.setattr(routes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    devices.register("default", "pi", PI)
    with ThreadPoolExecutor(8) as pool:
        try:
            waiting = [pool.submit(claim, client, wait_seconds=8) for _ in range(7)]
            until(lambda: sum(answer.done() for answer in waiting) == 6)
            waiting.append(pool.submit(claim, client, wait_seconds=8))
            ousted, _ = wait(waiting[:7], timeout=120)
            assert [answer.result() for answer in ousted] == [[]] * 7
            assert not waiting[7].done()
            put(devices, tenant="default")
            assert len(waiting[7].result(60)) == 4
        finally:
            now[0] += 9


BAD_TIMINGS: dict[str, dict[str, Any]] = {
    "negative": {"ms": -1.5},
    "zero": {"ratio": 0},
    "NaN": {"ms": float("nan")},
    "infinite": {"reference_ms": float("inf")},
    "text": {"ms": "1.5"},
    "a truth value": {"ms": True},
    "nothing": {"ms": None},
    "no samples": {"samples": 0},
    "a spread beyond all bounds": {"ratio": 1e-320, "ratio_iqr": 1e8},
    "one field more": {"p99": 2.0},
}


@pytest.mark.parametrize("bad", BAD_TIMINGS.values(), ids=BAD_TIMINGS)
def test_what_is_no_measurement_never_reaches_the_table(
    client: TestClient, devices: SqlDevices, batch: list[Measurement], bad: dict[str, Any]
) -> None:
    item = claim(client)[0]
    refused = report(client, item, timing=GOOD.to_json() | bad)
    assert refused.status_code == 422, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert devices.results("default", batch[0].batch, wanted_seconds=60) == []
    assert devices.device("default", "pi").measured == 0
    assert report(client, item).status_code == 200


def test_reports_that_are_not_of_what_is_under_way_are_refused(
    client: TestClient, devices: SqlDevices, batch: list[Measurement]
) -> None:
    nano = devices.register("default", "nano", PI)
    item, other, *_ = claim(client, most=2)
    wrong = [
        (422, report(client, item, conditions=replace(HOW, threads=1).to_json())),
        (422, report(client, item, error="and a timing")),
        (422, report(client, item, timing=None)),
        (422, report(client, item, attempt=0)),
        (409, report(client, item, attempt=2)),
        (404, report(client, item, device="nano", epoch=nano.epoch)),
        (409, report(client, item, device="nano")),
        (404, report(client, item, device="pi5")),
        (404, report(client, item | {"id": "msrm_unknown"})),
        (409, report(client, {"id": batch[3].id, "attempt": 1, "conditions": HOW.to_json()})),
    ]
    assert [answer.status_code for _, answer in wrong] == [status for status, _ in wrong]
    assert [answer.json()["code"] for status, answer in wrong if status == 409] == [
        "late_outcome",
        "another_agent",
        "late_outcome",
    ]
    assert "ordered under" in wrong[0][1].json()["detail"]
    devices.register("default", "pi", PI)  # its agent starts again, and gets both anew
    assert report(client, item).status_code == 409
    devices.cancel("default", batch[0].batch)
    assert report(client, other).status_code == 409
    assert {one.state for one in devices.results("default", batch[0].batch, wanted_seconds=1)} == {
        MeasurementState.CANCELLED
    }


def test_an_agent_after_whom_another_registered_is_refused(
    client: TestClient, devices: SqlDevices, batch: list[Measurement]
) -> None:
    first = client.post("/v1/devices", json=ABOUT).json()["epoch"]
    item = claim(client)[0]
    second = client.post("/v1/devices", json=ABOUT).json()["epoch"]
    held = [{"id": item["id"], "attempt": 1}]
    for refused in (
        client.post("/v1/devices/pi/claims", json={"epoch": first}),
        client.post("/v1/devices/pi:renew", json={"epoch": first, "measurements": held}),
        report(client, item, epoch=first),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "another_agent")
        assert "Another agent speaks for 'pi' now" in refused.json()["detail"]
    assert devices.results("default", batch[0].batch, wanted_seconds=60) == []
    assert len(claim(client, epoch=second)) == len(batch)
    missing = client.post("/v1/devices/pi/claims", json={})
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (422, "/epoch")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"name": "local"}, 409),
        ({"name": "a b"}, 422),
        ({"name": ""}, 422),
        ({"description": {"fingerprint": {}}}, 422),
        ({"description": {"fingerprint": {"a": 1.5}, "runtimes": {}}}, 422),
        ({"description": {"fingerprint": {}, "runtimes": {"torch": None}}}, 422),
        ({"description": {"fingerprint": {str(i): i for i in range(40)}, "runtimes": {}}}, 422),
        ({"url": "http://pi4"}, 422),
    ],
)
def test_faulty_registrations_are_refused(client: TestClient, changes: dict[str, Any], status: int) -> None:
    assert client.post("/v1/devices", json=ABOUT | changes).status_code == status
    assert len(client.get("/v1/devices").json()["items"]) == 1


def test_keys_need_the_scope_and_see_their_own_devices(app: FastAPI, store: SqlStore, devices: SqlDevices) -> None:
    def headers(tenant: str, *scopes: Scope) -> dict[str, str]:
        return {"X-API-Key": ApiKeys(store.database).create("test", tenant=tenant, scopes=scopes)[1]}

    with TestClient(app, base_url="http://127.0.0.1") as client:
        agent, reader = headers("t", Scope.DEVICES), headers("t", Scope.READ)
        strangers, writer = headers("u", Scope.DEVICES, Scope.READ), headers("t", Scope.WRITE, Scope.READ)
        refused = client.post("/v1/devices", json=ABOUT, headers=writer)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
        registered = client.post("/v1/devices", json=ABOUT, headers=agent)
        assert registered.status_code == 200
        batch = put(devices)
        names = [[d["name"] for d in client.get("/v1/devices", headers=h).json()["items"]] for h in (reader, strangers)]
        assert names == [["local", "pi"], ["local"]]
        assert client.get("/v1/devices/pi", headers=strangers).status_code == 404
        for path in ("claims", f"measurements/{batch[0].id}"):
            assert client.post(f"/v1/devices/pi/{path}", json={}, headers=strangers).status_code == 404
        assert client.post("/v1/devices/pi:renew", json={}, headers=strangers).status_code == 404
        assert client.post("/v1/devices/pi/claims", json={}, headers=writer).status_code == 403
        by = {"epoch": registered.json()["epoch"]}
        assert len(client.post("/v1/devices/pi/claims", json=by, headers=agent).json()["items"]) == 4
