"""Keys, their scopes, and their tenants: every route there is, walked with the wrong key."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from automl_prune.latency.registered import Measurement
from automl_prune.loop.audit import HERE
from automl_prune.loop.ports import Store
from automl_prune.storage.keys import ApiKeys, KeyLimits, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.webhooks import Webhook, Webhooks
from automl_prune.testing.store_devices import GOOD, HOW, PI, epoch, put
from services.api import tenancy
from services.api.access import OPEN, PROBES, scope_of
from services.api.app import create_app
from services.api.context import Review
from services.settings import load_settings

Order = Callable[..., dict[str, Any]]
Fill = Callable[[Store], str]
Call = tuple[str, str]
"""A method and a path pattern."""

ALIKE = {
    "/openapi.json",
    "/v1/strategies",
    "/v1/search-spaces",
    "/v1/criteria",
    "/v1/datasets",
    "/v1/plugins",
    "/v1/devices",
    "/metrics",
    "/v1/searches:validate",
}
"""What is the same for everybody who may ask."""


@pytest.fixture
def keys(store: SqlStore) -> ApiKeys:
    return ApiKeys(store.database)


@pytest.fixture
def ours(store: SqlStore, fill: Fill) -> str:
    """A search of the tenant ``default``, with trials and a file."""
    return fill(store)


@dataclass(frozen=True)
class Belongings:
    """What the tenant ``default`` has besides a search: a webhook, and a device whose agent is at a measurement."""

    webhooks: Webhooks
    devices: SqlDevices
    webhook: Webhook
    measurement: Measurement

    @property
    def ids(self) -> dict[str, str]:
        """What patterns are filled with."""
        return {"webhook_id": self.webhook.id, "device": "pi", "measurement_id": self.measurement.id}

    def body(self, pattern: str) -> dict[str, Any]:
        """What its owner could send there."""
        by = epoch(self.devices, "default")
        held = {"id": self.measurement.id, "attempt": self.measurement.attempt}
        report = {"epoch": by, "attempt": self.measurement.attempt, "conditions": HOW.to_json(), "timing": GOOD.to_json()}
        ends: dict[str, dict[str, Any]] = {
            "/claims": {"epoch": by, "most": 4},
            ":renew": {"epoch": by, "measurements": [held]},
            "{measurement_id}": report,
        }
        return next((body for end, body in ends.items() if pattern.endswith(end)), {"priority": 0})

    def now(self) -> Any:
        """All of it, as it is."""
        device = self.devices.device("default", "pi")
        claimable = self.devices.has_work("default", "pi")
        results = self.devices.results("default", self.measurement.batch, wanted_seconds=600)
        return self.webhooks.known("default"), device.last_seen_at, device.measured, claimable, results


@pytest.fixture
def belongings(store: SqlStore) -> Belongings:
    webhooks, devices = Webhooks(store), SqlDevices(store.database)
    webhook = webhooks.create("default", "https://example.org/hook", "a secret of sixteen", ["end"])
    put(devices, tenant="default", seconds=600)
    (measurement,) = devices.claim("default", "pi", epoch=epoch(devices, "default"), most=1, lease_seconds=600)
    return Belongings(webhooks, devices, webhook, measurement)


@pytest.fixture
def make(keys: ApiKeys) -> Callable[..., dict[str, str]]:
    """Makes a key and returns the headers that send it."""

    def headers(tenant: str, *scopes: Scope) -> dict[str, str]:
        _, token = keys.create("test", tenant=tenant, scopes=scopes or (Scope.READ, Scope.WRITE), limits=KeyLimits())
        return {"Authorization": f"Bearer {token}"}

    return headers


def walk(routes: list[BaseRoute]) -> Iterator[Call]:
    """Every method of every route, included routers' too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield from ((method, route.path) for method in sorted(route.methods or ()))
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        if inner is not None:
            yield from walk(inner)


def calls(app: FastAPI) -> list[Call]:
    """What the app answers, from its OpenAPI and its routes alike."""
    named = {(m.upper(), path) for path, verbs in app.openapi()["paths"].items() for m in verbs}
    found = {(method, re.sub(r":(id|number)\}", "}", path)) for method, path in walk(list(app.routes))} | named
    assert len(named) >= 15
    return [*sorted((m, p) for m, p in found if m != "HEAD"), ("GET", "/openapi.json")]


def filled(path: str, search_id: str, **others: str) -> str:
    """A pattern with the ids of a search, and of other things, that exist."""
    for name, value in {"search_id": search_id, "number": "0", "name": "model.safetensors", **others}.items():
        path = path.replace(f"{{{name}}}", value)
    return re.sub(r"\{\w+\}", "some_id", path)


def closed(app: FastAPI) -> list[Call]:
    """The calls that take a key."""
    return [(m, p) for m, p in calls(app) if p not in OPEN | PROBES and p != "/searches/{search_id}"]


def test_without_a_key_nothing_but_probes_and_the_page_answers(
    app: FastAPI, client: TestClient, make: Callable[..., dict[str, str]], ours: str
) -> None:
    assert client.get(f"/v1/searches/{ours}").status_code == 200  # this machine's only user, until there is a key
    make("default")
    assert len(closed(app)) >= 15
    for method, path in closed(app):
        answer = client.request(method, filled(path, ours), json={})
        assert (answer.status_code, answer.json()["code"]) == (401, "key_missing"), (method, path)
        assert answer.headers["www-authenticate"] == 'Bearer realm="automl-prune"'
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.head(filled(path, ours)).status_code == 401
    assert client.get("/v1/nothing").status_code == 401
    for path in ("/healthz", "/readyz", "/version", "/", "/docs", f"/searches/{ours}", "/web/app.js", "/web/style.css"):
        assert client.get(path).status_code == 200, path


def test_another_tenants_key_finds_nothing_on_any_route(
    app: FastAPI,
    client: TestClient,
    make: Callable[..., dict[str, str]],
    ours: str,
    belongings: Belongings,
    store: SqlStore,
    order: Order,
) -> None:
    before, stranger = (store.get_search(ours), belongings.now()), make("strangers", *Scope)
    walked = [call for call in closed(app) if re.search(r"\{(webhook_id|device|measurement_id)\}", call[1])]
    assert len(walked) >= 5
    for method, pattern in closed(app):
        path = filled(pattern, ours, **belongings.ids)
        assert "some_id" not in path
        if pattern in {*ALIKE, "/v1/audit"} or (method, pattern) in {("POST", "/v1/searches"), ("POST", "/v1/webhooks")}:
            continue
        answer = client.request(method, path, json=belongings.body(pattern), headers=stranger)
        assert ours not in answer.text or path in answer.text, (method, path)
        if "{" in pattern:
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
        else:
            assert (answer.status_code, answer.json()["items"]) == (200, []), (method, path)
    assert (store.get_search(ours), belongings.now()) == before
    theirs = client.post("/v1/searches", json=order(), headers=stranger).json()["id"]
    assert store.get_search(theirs).tenant == "strangers"
    owner = make("default", Scope.READ)
    listed = {who: [s["id"] for s in client.get("/v1/searches", headers=h).json()["items"]] for who, h in
              {"owner": owner, "stranger": stranger}.items()}  # fmt: skip
    assert listed == {"owner": [ours], "stranger": [theirs]}
    assert client.get(f"/v1/searches/{theirs}", headers=owner).status_code == 404


def test_a_device_of_the_same_name_opens_nothing_of_the_others(
    client: TestClient, make: Callable[..., dict[str, str]], belongings: Belongings
) -> None:
    before, measurement = belongings.now(), belongings.measurement
    stranger, owner = make("strangers", Scope.DEVICES), make("default", Scope.DEVICES)
    theirs = belongings.devices.register("strangers", "pi", PI).epoch
    report = filled("/v1/devices/{device}/measurements/{measurement_id}", "", **belongings.ids)

    def post(path: str, pattern: str, who: dict[str, str]) -> Any:
        by = {"epoch": theirs} if who is stranger else {}
        return client.post(path, json=belongings.body(pattern) | by, headers=who)

    refused = post(report, "{measurement_id}", stranger)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert post("/v1/devices/pi:renew", ":renew", stranger).json()["lost"] == [measurement.id]
    assert post("/v1/devices/pi/claims", "/claims", stranger).json()["items"] == []
    assert belongings.now() == before
    assert post("/v1/devices/pi:renew", ":renew", owner).json()["lost"] == []
    assert post(report, "{measurement_id}", owner).json()["state"] == "done"
    webhook = f"/v1/webhooks/{belongings.webhook.id}"
    assert client.delete(webhook, headers=make("default", Scope.WRITE)).status_code == 204


def test_the_owners_key_finds_all_of_it(
    app: FastAPI, client: TestClient, make: Callable[..., dict[str, str]], ours: str, belongings: Belongings
) -> None:
    owner = make("default", Scope.ADMIN, Scope.METRICS)
    for method, pattern in closed(app):
        if method == "GET" and not pattern.endswith(("/best", "/events")):
            assert client.get(filled(pattern, ours, **belongings.ids), headers=owner).status_code == 200, pattern


def test_a_key_does_what_its_scopes_say_and_no_more(
    app: FastAPI, client: TestClient, make: Callable[..., dict[str, str]], ours: str
) -> None:
    by_scope = {scope: make("default", scope) for scope in Scope}
    for method, pattern in closed(app):
        needed = scope_of(method, pattern)
        if not pattern.startswith("/v1/devices"):
            assert (needed == Scope.READ) == (method == "GET" and pattern not in ("/metrics", "/v1/audit")), (
                method,
                pattern,
            )
        for scope, headers in by_scope.items():
            if scope == needed or (scope is Scope.ADMIN and needed != Scope.METRICS):
                continue
            answer = client.request(method, filled(pattern, ours), json={}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), (method, pattern, scope)
            assert f'scope="{needed}"' in answer.headers["www-authenticate"]


def test_a_key_that_is_not_valid_is_refused(client: TestClient, keys: ApiKeys) -> None:
    key, token = keys.create("test")
    assert client.get("/v1/searches", headers={"X-API-Key": token}).status_code == 200
    assert client.get("/v1/searches", headers={"Authorization": f"bearer  {token}"}).status_code == 200
    strange = [token[:-1], token.upper(), "x" * 5000, "aps_", "' OR 1=1 --"]
    for other in strange:
        answer = client.get("/v1/searches", headers={"X-API-Key": other})
        assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid"), other
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert other not in answer.text or len(other) < 5
    raw = client.get("/v1/searches", headers=[(b"X-API-Key", "ü".encode())])
    assert raw.status_code == 401
    assert client.get("/v1/searches", headers={"Authorization": f"Basic {token}"}).status_code == 401
    keys.revoke(key.id)
    assert client.get("/v1/searches", headers={"X-API-Key": token}).status_code == 401


@pytest.mark.parametrize(
    "where",
    [{"host": "0.0.0.0"}, {"public_url": "http://prune.example"}],
    ids=lambda where: " ".join(where),
)
def test_beyond_this_machine_a_key_is_asked_for_before_there_is_one(
    store: SqlStore, tmp_path: Path, review: Review, keys: ApiKeys, where: dict[str, str]
) -> None:
    settings = load_settings(home=tmp_path, **where)
    with TestClient(create_app(store, settings, review), base_url="http://prune.example") as client:
        assert client.get("/v1/searches").status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200
        _, token = keys.create("test")
        assert client.get("/v1/searches", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_where_a_name_is_configured_other_hosts_are_turned_away_even_with_a_key(
    store: SqlStore, tmp_path: Path, review: Review, make: Callable[..., dict[str, str]]
) -> None:
    settings = load_settings(home=tmp_path, host="0.0.0.0", public_url="https://prune.example")
    key = make("default")
    for host, status in (("evil.example", 421), ("prune.example", 200), ("127.0.0.1", 200)):
        with TestClient(create_app(store, settings, review), base_url=f"http://{host}") as client:
            assert client.get("/v1/searches", headers=key).status_code == status
            assert client.get("/healthz").status_code == 200


PROXIED = [
    {"Forwarded": "for=192.0.2.1"},
    {"Via": "1.1 proxy"},
    {"X-Forwarded-For": "192.0.2.1"},
    {"X-Forwarded-Host": "prune.example"},
    {"X-Real-IP": "192.0.2.1"},
]


@pytest.mark.parametrize("added", PROXIED, ids=lambda added: " ".join(added))
def test_what_a_proxy_passes_on_takes_a_key(
    client: TestClient, make: Callable[..., dict[str, str]], added: dict[str, str]
) -> None:
    """By the name of this machine, too, which proxies send by default."""
    for path in ("/v1/searches", "/", "/docs"):
        answer = client.get(path, headers=added)
        assert (answer.status_code, answer.json()["code"]) == (403, "passed_on"), path
        assert "keys create" in answer.json()["detail"]
    assert client.get("/healthz", headers=added).status_code == 200
    assert client.get("/v1/searches", headers=make("default") | added).status_code == 200


def test_without_keys_nobody_speaks_as_nginx_does_by_default(app: FastAPI, serve: Callable[[FastAPI], str]) -> None:
    """It adds nothing, and sends the name of this machine, but in HTTP/1.0."""
    host, port = serve(app).removeprefix("http://").split(":")

    def status(version: str) -> bytes:
        with socket.create_connection((host, int(port)), timeout=10) as proxy:
            asked = f"GET /v1/searches HTTP/{version}\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            proxy.sendall(asked.encode())
            return proxy.recv(100).split()[1]

    assert (status("1.0"), status("1.1")) == (b"403", b"200")


def test_nothing_is_shared_with_other_origins(client: TestClient, make: Callable[..., dict[str, str]]) -> None:
    key = make("default")
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for answer in (client.get("/v1/searches", headers=key | asked), client.options("/v1/searches", headers=key | asked)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert client.post("/v1/searches", json={}, headers=key | asked).status_code == 403


def test_answers_of_the_gate_carry_the_headers_of_all_others(client: TestClient, keys: ApiKeys) -> None:
    keys.create("test")
    answer = client.get("/v1/searches", headers={"X-Request-ID": "mine-1"})
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
    for path in ("/v1/searches", "/", "/web/app.js", "/healthz"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_request_reaches_no_call_of_the_store_that_asks_for_no_tenant(store: SqlStore) -> None:
    bound = tenancy.of_tenant(store, "edge", HERE)
    for name in (n for n in vars(Store) if not n.startswith("_") and n not in tenancy.BY_TENANT):
        with pytest.raises(AttributeError, match=name):
            getattr(bound, name)
