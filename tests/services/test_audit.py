"""Who changed what: noted by every route that changes something, and told to admins, each of its own tenant."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from typer.testing import CliRunner

from automl_prune.storage.keys import ApiKey, ApiKeys, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import WebhookRow
from services.cli.app import app as commands
from services.settings import PREFIX, Settings

Order = Callable[..., dict[str, Any]]

UNNOTED = {
    ("POST", "/v1/searches:validate"),
    ("POST", "/v1/devices/{device}/claims"),
    ("POST", "/v1/devices/{device}:renew"),
    ("POST", "/v1/devices/{device}/measurements/{measurement_id}"),
}
"""What changes nothing, or is an agent's work."""
PI = {"name": "pi", "description": {"fingerprint": {"processor": "ARM"}, "runtimes": {"torch": "2.7"}}}
HOOK = {"url": "https://127.0.0.1/hook", "secret": "a secret of sixteen"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})


@pytest.fixture
def admin(store: SqlStore) -> tuple[ApiKey, dict[str, str]]:
    """A key of the tenant ``edge``, and the headers that send it."""
    key, token = ApiKeys(store.database).create("root", tenant="edge", scopes=[Scope.ADMIN])
    return key, {"Authorization": f"Bearer {token}"}


def entries(client: TestClient, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/audit", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_every_route_that_changes_something_is_noted(
    app: FastAPI, client: TestClient, store: SqlStore, admin: tuple[ApiKey, dict[str, str]], order: Order
) -> None:
    key, headers = admin

    def call(method: str, path: str, **body: Any) -> dict[str, Any]:
        sent = headers | {"X-Request-ID": f"{method}.{len(done)}"}
        answer = client.request(method, path, headers=sent, json=body or None)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    done: list[tuple[str, str, str, str, str]] = []
    search = call("POST", "/v1/searches", **order())["id"]
    done.append(("POST", "/v1/searches", "search.order", search, "queued"))
    for verb, result in (("pause", "paused"), ("resume", "queued")):
        call("POST", f"/v1/searches/{search}:{verb}")
        done.append(("POST", f"/v1/searches/{{search_id}}:{verb}", f"search.{verb}", search, result))
    call("PATCH", f"/v1/searches/{search}", name="other")
    done.append(("PATCH", "/v1/searches/{search_id}", "search.change", search, "queued"))
    call("POST", f"/v1/searches/{search}:cancel")
    done.append(("POST", "/v1/searches/{search_id}:cancel", "search.cancel", search, "cancelled"))
    hook = call("POST", "/v1/webhooks", **HOOK)["id"]
    done.append(("POST", "/v1/webhooks", "webhook.create", hook, "enabled"))
    with store.database.write() as session:
        session.execute(update(WebhookRow).values(disabled_at=store.database.now()))
    call("POST", f"/v1/webhooks/{hook}:enable")
    done.append(("POST", "/v1/webhooks/{webhook_id}:enable", "webhook.enable", hook, "enabled"))
    call("DELETE", f"/v1/webhooks/{hook}")
    done.append(("DELETE", "/v1/webhooks/{webhook_id}", "webhook.remove", hook, "removed"))
    call("POST", "/v1/devices", **PI)
    done.append(("POST", "/v1/devices", "device.register", "pi", "registered"))
    call("DELETE", "/v1/devices/pi")
    done.append(("DELETE", "/v1/devices/{device}", "device.remove", "pi", "removed"))

    *found, made = entries(client, headers)
    assert (made["action"], made["object"], made["result"], made["key_id"]) == ("key.create", key.id, "admin", None)
    for number, (entry, (method, _, action, what, result)) in enumerate(zip(reversed(found), done, strict=True)):
        assert (entry["action"], entry["object"], entry["result"], entry["tenant"]) == (action, what, result, "edge")
        came = (entry["key_id"], entry["ip"], entry["request_id"])
        assert came == (key.id, "testclient", f"{method}.{number}"), action
    documented = {(m.upper(), path) for path, verbs in app.openapi()["paths"].items() for m in verbs}
    assert {call for call in documented if call[0] != "GET"} == UNNOTED | {(method, path) for method, path, *_ in done}


def test_what_is_refused_is_not_noted(client: TestClient, admin: tuple[ApiKey, dict[str, str]], order: Order) -> None:
    _, headers = admin
    search = client.post("/v1/searches", json=order(), headers=headers).json()["id"]
    before = entries(client, headers)
    assert client.post(f"/v1/searches/{search}:resume", headers=headers).status_code == 409
    assert client.patch(f"/v1/searches/{search}", json={"name": "a"}, headers=headers | {"If-Match": '"9-"'}).is_error
    assert client.patch(f"/v1/searches/{search}", json={}, headers=headers).is_success, "it changes nothing"
    assert client.post("/v1/searches", json={}, headers=headers).status_code == 422
    assert entries(client, headers) == before


def test_only_admins_read_it_and_only_their_tenants(
    client: TestClient, store: SqlStore, admin: tuple[ApiKey, dict[str, str]], order: Order
) -> None:
    _, headers = admin
    keys = ApiKeys(store.database)
    scopes = [scope for scope in Scope if scope is not Scope.ADMIN]
    _, plain = keys.create("plain", tenant="edge", scopes=scopes)
    other, foreign = keys.create("other", tenant="core", scopes=[Scope.ADMIN])
    search = client.post("/v1/searches", json=order(), headers=headers).json()["id"]
    refused = client.get("/v1/audit", headers={"X-API-Key": plain})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    seen = entries(client, {"X-API-Key": foreign})
    assert [(e["action"], e["object"]) for e in seen] == [("key.create", other.id)]
    assert entries(client, {"X-API-Key": foreign}, object=search) == []
    assert [e["object"] for e in entries(client, headers, object=search)] == [search]


def test_it_is_read_in_pages(client: TestClient, store: SqlStore) -> None:
    search = store.add_search({}, name=None, labels={}).id
    for number in range(6):
        store.update_search(search, name=str(number))
    found: list[dict[str, Any]] = []
    token = None
    for _ in range(3):
        query = {"limit": 3} | ({"page_token": token} if token else {})
        answer = client.get("/v1/audit", params=query).json()
        found, token = found + answer["items"], answer["next_page_token"]
    assert token is None
    assert [e["id"] for e in found] == [entry.id for entry in store.audit(limit=100)]
    assert len(found) == 7
    for wrong in ({"page_token": "x"}, {"limit": 0}, {"object": ""}):
        assert client.get("/v1/audit", params=wrong).status_code == 422, wrong


def test_the_command_reads_the_database(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    for name in [n for n in os.environ if n.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", store.database.engine.url.render_as_string(hide_password=False))

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(commands, ["audit", *arguments, "--home", str(tmp_path)])
        assert result.exit_code == code, result.output
        return result

    search = store.add_search(order(), name=None, labels={}).id
    key, _ = ApiKeys(store.database).create("ci", tenant="edge")
    table = call().stdout
    assert [line.split()[2:5] for line in table.splitlines()[1:]] == [
        ["edge", "key.create", key.id],
        ["default", "search.order", search],
    ]
    first = json.loads(call("--limit", "1", "--json").stdout)
    assert [(e["action"], e["result"], e["key_id"]) for e in first["items"]] == [
        ("key.create", "search:read, search:write", None)
    ]
    second = json.loads(call("--page-token", first["next_page_token"], "--json").stdout)
    assert ([e["object"] for e in second["items"]], second["next_page_token"]) == ([search], None)
    assert f"--page-token {first['next_page_token']}" in call("--limit", "1").stderr
    for arguments in (("--tenant", "edge"), ("--object", key.id)):
        assert [e["object"] for e in json.loads(call(*arguments, "--json").stdout)["items"]] == [key.id]
    assert "page_token" in call("--page-token", "x", code=2).stderr
