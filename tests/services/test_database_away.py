"""What the service answers while its database is away, and after."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from fastapi.testclient import TestClient

pytestmark = pytest.mark.parametrize("store", ["postgresql"], indirect=True)


def test_the_service_says_that_its_database_is_away_and_goes_on_when_it_is_back(
    client: TestClient, order: Callable[..., dict[str, Any]], postgres_away: Callable[[], AbstractContextManager[None]]
) -> None:
    before = client.post("/v1/searches", json=order()).json()["id"]
    with postgres_away():
        for method, path in [("GET", "/readyz"), ("GET", "/v1/searches"), ("GET", f"/v1/searches/{before}")]:
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
        refused = client.post("/v1/searches", json=order(), headers={"Idempotency-Key": "one"})
        assert refused.status_code == 503
        assert client.get("/healthz").status_code == 200, "the process itself is well: nobody should restart it"
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/searches", json=order(), headers={"Idempotency-Key": "one"}).status_code == 201
    assert [item["id"] for item in client.get("/v1/searches").json()["items"]][1:] == [before]
