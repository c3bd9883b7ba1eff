import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy.exc
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from automl_prune.errors import (
    BudgetError,
    EvaluationError,
    FieldError,
    LeaseLostError,
    NotFoundError,
    QueueFullError,
    SpecError,
    StateConflictError,
    UnknownNameError,
    UserError,
)
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from services.api.app import create_app
from services.api.context import Reviews
from services.api.problems import TITLES, RequestError, problem_of
from services.settings import Settings

JSON = {"Content-Type": "application/json"}
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem in a response, after checking everything that all problems have in common."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:automl-prune:problem:{code}"
    assert body["title"] == TITLES[status]
    assert body["request_id"] == response.headers["x-request-id"] != ""
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "Traceback" not in response.text
    return body


def post(client: TestClient, content: bytes | str, path: str = "/v1/searches", **headers: str) -> Any:
    return client.post(path, content=content, headers={**JSON, **headers})


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UserError("x"), 422, "invalid"),
        (BudgetError("x"), 422, "unreachable_budget"),
        (NotFoundError("x"), 404, "not_found"),
        (StateConflictError("x"), 409, "state_conflict"),
        (LeaseLostError("x"), 409, "lease_lost"),
        (QueueFullError("x"), 429, "too_many_queued"),
        (EvaluationError("x"), 500, "internal"),
        (RuntimeError("x"), 500, "internal"),
        (ClientDisconnect(), 400, "client_disconnected"),
        (RequestError(415, "unsupported_media_type", "x"), 415, "unsupported_media_type"),
        (sqlalchemy.exc.OperationalError("select", {}, Exception("locked")), 503, "store_unavailable"),
        (sqlalchemy.exc.TimeoutError(), 503, "store_unavailable"),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int, code: str) -> None:
    found = problem_of(error)
    assert (found.status, found.code) == (status, code)


@pytest.mark.parametrize("path", ["artifacts", "/web/app.js", "/"])
def test_a_part_that_cannot_be_had_is_refused_as_everything_else(
    client: TestClient, store: SqlStore, fill: Callable[[SqlStore], str], path: str
) -> None:
    path = f"/v1/searches/{fill(store)}/artifacts/model.safetensors" if path == "artifacts" else path
    size = len(client.get(path).content)

    def part(asked: str) -> Any:
        return client.get(path, headers={"Range": asked})

    for asked in ("lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=5-2"):
        assert "Range" in problem(part(asked), 400, "malformed_range")["detail"]
    for asked in (f"bytes={size}-", "bytes=999999-", f"bytes=0-1,{size + 7}-{size + 9}"):
        refused = part(asked)
        assert f"{size} bytes" in problem(refused, 416, "range_not_satisfiable")["detail"]
        assert refused.headers["content-range"] == f"bytes */{size}"
        head = client.head(path, headers={"Range": asked})
        assert (head.status_code, head.content) == (416, b"")
    whole, some = client.get(path).content, part("bytes=2-5")
    assert (some.status_code, some.content) == (206, whole[2:6])
    several = part("bytes=0-1,4-6")
    assert (several.status_code, several.headers["content-type"].split(";")[0]) == (206, "multipart/byteranges")
    assert whole[4:7] in several.content


def test_a_foreign_name_is_refused_with_a_title(app: FastAPI) -> None:
    with TestClient(app, base_url="http://evil.example") as client:
        problem(client.get("/v1/searches"), 421, "misdirected_request")


def test_faulty_fields_keep_their_pointers() -> None:
    several = SpecError([FieldError("/seed", "Too small.", "low"), FieldError("/budgets", "Missing.")])
    assert [e.pointer for e in problem_of(several).errors] == ["/seed", "/budgets"]
    (one,) = problem_of(UnknownNameError("strategy", "abd", ["abc"], pointer="/strategy/name")).errors
    assert (one.pointer, one.code) == ("/strategy/name", "unknown_name")
    assert "did you mean 'abc'" in one.detail


@pytest.mark.parametrize("body", ["", "{", "{'a': 1}", b"\xff{}", '{"seed": ' + "9" * 5000 + "}", "[1,]"])
def test_400_for_what_is_not_json(client: TestClient, body: str | bytes) -> None:
    problem(post(client, body), 400, "malformed_json")


@pytest.mark.parametrize("body", ["[" * 5000, '{"a":' * 30 + "1" + "}" * 30])
def test_400_for_a_bottomless_body(client: TestClient, body: str) -> None:
    assert "20 levels" in problem(post(client, body), 400, "too_deep")["detail"]


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ('{"strategy": {"options": {"a/b": [0, NaN]}}}', "not_finite", "/strategy/options/a~1b/1"),
        ('{"seed": -Infinity}', "not_finite", "/seed"),
        ('{"seed": 1e999}', "not_finite", "/seed"),
        (r'{"name": "a\u0000b"}', "unstorable_text", "/name"),
        (r'{"labels": {"\ud800": "x"}}', "unstorable_text", "/labels"),
    ],
)
def test_422_points_at_values_that_nothing_can_keep(client: TestClient, body: str, code: str, pointer: str) -> None:
    assert problem(post(client, body), 422, code)["errors"][0]["pointer"] == pointer


def test_403_for_pages_of_other_sites(client: TestClient) -> None:
    for origin in ("https://evil.example", "null"):
        problem(post(client, "{}", Origin=origin), 403, "cross_origin")
    problem(post(client, "{}", Origin="http://127.0.0.1"), 422, "invalid_spec")
    assert client.get("/v1/searches", headers={"Origin": "https://evil.example"}).status_code == 200


def test_404_and_405(client: TestClient) -> None:
    for path in ("/nothing", "/v1/searches/srch_unknown", "/v1/searches/x/trials", "/v1/searches/x/best", "/web/none.js"):
        problem(client.get(path), 404, "not_found")
    problem(client.get("/v1/searches/srch_unknown/trials/99999999999999999999"), 404, "not_found")
    refused = client.delete("/v1/strategies")
    problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"
    several = {"/v1/webhooks": "GET, HEAD, POST", "/v1/searches/x": "GET, HEAD, PATCH", "/v1/searches/x:pause": "POST"}
    for path, methods in (several | {"/v1/webhooks/x": "GET, HEAD, DELETE", "/web/app.js": "GET, HEAD"}).items():
        refused = client.put(path)
        problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == methods


def test_a_verb_is_not_an_id(client: TestClient) -> None:
    problem(client.get("/v1/searches/srch_1:cancel"), 405, "method_not_allowed")
    problem(client.get("/v1/searches/srch_1:explode"), 404, "not_found")
    problem(client.get("/v1/searches:validate"), 405, "method_not_allowed")


def test_413_when_the_length_is_declared(client: TestClient) -> None:
    assert "10000 bytes" in problem(post(client, b" " * 10_001), 413, "body_too_large")["detail"]
    problem(post(client, b" " * 10_000), 400, "malformed_json")


def test_413_when_the_length_is_not_declared(app: FastAPI, serve: Callable[[FastAPI], str]) -> None:
    connection = http.client.HTTPConnection(serve(app).removeprefix("http://"), timeout=20)
    chunks = (b" " * 1000 for _ in range(11))
    connection.request("POST", "/v1/searches", body=chunks, headers=JSON, encode_chunked=True)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_415(client: TestClient, media_type: str) -> None:
    response = client.post("/v1/searches", content="{}", headers={"Content-Type": media_type})
    assert "application/json" in problem(response, 415, "unsupported_media_type")["detail"]


def test_other_json_types_are_taken(client: TestClient) -> None:
    for media_type in ("application/json; charset=utf-8", "application/merge-patch+json"):
        problem(client.post("/v1/searches", content="[]", headers={"Content-Type": media_type}), 422, "invalid_spec")


def test_422_for_parameters(client: TestClient) -> None:
    for query in ("limit=0", "limit=201", "limit=many", "state=sleeping", "strategy=%00", "page_token=" + "x" * 300):
        body = problem(client.get(f"/v1/searches?{query}"), 422, "invalid_request")
        assert body["errors"][0]["pointer"].startswith(f"/query/{query.split('=')[0]}")
    for query in ("label=edge", "label=:edge", "page_token=bm9wZQ", "page_token=ü"):
        body = problem(client.get(f"/v1/searches?{query}"), 422, "invalid")
        assert body["errors"][0]["pointer"] == f"/query/{query.split('=')[0]}"


def test_many_faults_and_long_names_stay_short(client: TestClient) -> None:
    crowd = {f"field{i}": i for i in range(300)} | {"n" * 2000: 1}
    response = post(client, json.dumps(crowd))
    assert len(problem(response, 422, "invalid_spec")["errors"]) == 100
    assert len(response.content) < 40_000


def test_500_says_nothing_about_the_cause(store: SqlStore, settings: Settings, order: Callable[..., dict[str, Any]]) -> None:
    def broken(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        raise RuntimeError("password=hunter2")

    with TestClient(
        create_app(store, settings, broken), raise_server_exceptions=False, base_url="http://127.0.0.1"
    ) as client:
        response = client.post("/v1/searches:validate", json=order(), headers={"X-Request-ID": "mine-1"})
    assert problem(response, 500, "internal")["request_id"] == "mine-1"
    assert "hunter2" not in response.text


def test_503_when_the_database_does_not_answer(
    client: TestClient, without_table: Callable[[str], AbstractContextManager[None]]
) -> None:
    with without_table("searches"):
        for path in ("/readyz", "/v1/searches", "/v1/searches/x"):
            response = client.get(path)
            problem(response, 503, "store_unavailable")
            assert response.headers["retry-after"] == "5"
            assert "searches" not in response.json()["detail"]
        assert client.get("/healthz").json() == {"status": "ok"}


def test_503_when_too_many_reviews_wait(store: SqlStore, settings: Settings, order: Callable[..., dict[str, Any]]) -> None:
    go = threading.Event()

    def slow(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        assert go.wait(20)
        return {}

    with (
        TestClient(create_app(store, settings, slow), base_url="http://127.0.0.1") as client,
        ThreadPoolExecutor(18) as pool,
    ):
        asked = [pool.submit(client.post, "/v1/searches:validate", json=order()) for _ in range(18)]
        try:
            done, _ = wait(asked, timeout=10, return_when=FIRST_COMPLETED)
            problem(done.pop().result(), 503, "busy")
            assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        finally:
            go.set()
        assert sorted(each.result().status_code for each in asked) == [200] * 17 + [503]


def test_a_tenant_whose_reviews_wait_holds_up_no_other(order: Callable[..., dict[str, Any]]) -> None:
    go, spec = threading.Event(), SearchSpec.parse(order())

    def slow(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        assert tenant == "modest" or go.wait(20)
        return {"of": tenant}

    async def ask() -> None:
        reviews = Reviews(slow)
        waiting = [asyncio.create_task(reviews.of(spec, "greedy")) for _ in range(18)]
        done, _ = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [type(each.exception()) for each in done] == [RequestError]
        assert await asyncio.wait_for(reviews.of(spec, "modest"), 10) == {"of": "modest"}
        go.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert answers.count({"of": "greedy"}) == 17

    asyncio.run(ask())


def test_request_ids_are_kept_when_sane(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for strange in ("a b", "x" * 65, "<script>"):
        assert client.get("/healthz", headers={"X-Request-ID": strange}).headers["x-request-id"] != strange
