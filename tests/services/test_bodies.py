"""What is refused before anybody looks at what it asks for."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.ports import Store
from automl_prune.storage.sql import SqlStore
from services.api.bodies import MAX_ITEMS

Order = Callable[..., dict[str, Any]]


def post(client: TestClient, content: str | bytes, content_type: str = "application/json", **headers: str) -> Any:
    return client.post("/v1/searches:validate", content=content, headers={"Content-Type": content_type, **headers})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"seed": 1, "seed": 1}', "/seed"),
        ('{"budgets": [{"metric": "macs"}, {"max": 1, "min": 0, "max": 2}]}', "/budgets/1/max"),
        ('{"labels": {"a/b": "1", "a/b": "2"}}', "/labels/a~1b"),
        ('{"seed": 1, "\\u0073eed": 2}', "/seed"),
    ],
)
def test_a_field_is_given_once(client: TestClient, body: str, pointer: str) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "duplicate_field")
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_name_that_nothing_can_keep_is_refused_even_twice(client: TestClient) -> None:
    assert post(client, r'{"\ud800": 1, "\ud800": 2}').json()["code"] == "unstorable_text"


@pytest.mark.parametrize("charset", ["latin1", "utf-16", '"ISO-8859-1"', "utf-7"])
def test_json_is_utf_8(client: TestClient, order: Order, charset: str) -> None:
    answer = post(client, json.dumps(order()), f"application/json; charset={charset}")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_charset")


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", 'application/json;charset="utf-8"'])
def test_utf_8_may_be_said(client: TestClient, order: Order, content_type: str) -> None:
    assert post(client, json.dumps(order()), content_type).status_code == 200


def test_nothing_is_unpacked(client: TestClient) -> None:
    answer = post(client, b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")


def test_lists_and_objects_have_a_limit(store: SqlStore, client: TestClient) -> None:
    many = "1," * MAX_ITEMS + "1"
    client.app.state.context.settings.__dict__["max_body_bytes"] = 10**6  # type: ignore[attr-defined]
    answer = post(client, f'{{"strategy": {{"options": {{"a": [{many}]}}}}}}')
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_items")
    assert answer.json()["errors"][0]["pointer"] == "/strategy/options/a"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"seed": "7"}, "/seed"),
        ({"trials": {"max": "8"}}, "/trials/max"),
        ({"trials": {"max": 100_001}}, "/trials/max"),
        ({"trials": {"parallel": 257}}, "/trials/parallel"),
        ({"dataset": {"name": "digits", "download": "yes"}}, "/dataset/download"),
        ({"search_space": {"name": "toy", "frozen": ["x"] * 257}}, "/search_space/frozen"),
    ],
)
def test_numbers_are_numbers_and_have_limits(
    client: TestClient, order: Order, changes: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/searches", json=order(**changes))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_head_is_answered_wherever_get_is(client: TestClient, store: SqlStore, fill: Callable[[Store], str]) -> None:
    job_id = fill(store)
    paths = [
        "/",
        "/docs",
        "/healthz",
        "/readyz",
        "/version",
        "/openapi.json",
        "/web/app.js",
        f"/searches/{job_id}",
        "/v1/searches",
        "/v1/strategies",
        f"/v1/searches/{job_id}",
        f"/v1/searches/{job_id}/trials/0",
        f"/v1/searches/{job_id}/artifacts/model.safetensors",
        f"/v1/searches/{job_id}/events",
    ]
    for path in paths:
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        if not path.endswith("/events"):
            got = client.get(path)
            assert {k for k in got.headers if k != "content-length"} <= set(head.headers), path
            assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/v1/searches/srch_unknown").status_code == 404
    assert client.head("/v1/searches:validate").status_code == 405
