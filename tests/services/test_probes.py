"""Probes answer while everything else waits, and what breaks before any route is logged like what breaks in one."""

import asyncio
import logging

import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.testclient import TestClient

from automl_prune.storage.keys import ApiKeys, Scope
from automl_prune.storage.sql import SqlStore


def test_probes_need_none_of_the_threads_of_routes(app: FastAPI, store: SqlStore) -> None:
    _, token = ApiKeys(store.database).create("prometheus", scopes=[Scope.METRICS, Scope.READ])

    async def ask() -> list[int]:
        threads = current_default_thread_limiter()
        tasks = [object() for _ in range(int(threads.total_tokens))]
        for task in tasks:
            threads.acquire_on_behalf_of_nowait(task)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers={"X-API-Key": token}
        ) as client:
            held_up = asyncio.create_task(client.get("/v1/strategies"))
            async with asyncio.timeout(20):
                answers = [await client.get(path) for path in ("/healthz", "/readyz", "/metrics")]
            assert not held_up.done()
            for task in tasks:
                threads.release_on_behalf_of(task)
            return [answer.status_code for answer in (*answers, await held_up)]

    assert asyncio.run(ask()) == [200] * 4


def test_an_error_before_any_route_is_logged(
    app: FastAPI, store: SqlStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, token = ApiKeys(store.database).create("test")

    def broken(keys: ApiKeys, token: str) -> None:
        raise KeyError("boom")

    monkeypatch.setattr(ApiKeys, "find", broken)
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/v1/searches", headers={"X-API-Key": token, "X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (500, "internal", "mine")
    assert [record.getMessage() for record in caplog.records] == ["GET '/v1/searches': KeyError"]
    assert vars(caplog.records[0])["request_id"] == "mine"
    with pytest.raises(KeyError, match="boom"):  # which the server logs with its traceback
        TestClient(app, base_url="http://127.0.0.1").get("/v1/searches", headers={"X-API-Key": token})
