import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, TrialState
from services import logs
from services.api import metrics
from services.api.app import create_app
from services.settings import Settings


@pytest.fixture
def requests(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The lines about requests, as a log collector would read them."""
    caplog.set_level(logging.INFO, "automl_prune.requests")

    def read() -> list[dict[str, Any]]:
        form = logs.Json({"service": "api"})
        return [json.loads(form.format(record)) for record in caplog.records if record.name == "automl_prune.requests"]

    return read


def test_each_request_is_one_line(client: TestClient, requests: Callable[[], list[dict[str, Any]]]) -> None:
    client.get("/v1/searches/srch_1/trials", headers={"X-Request-ID": "mine"})
    client.get("/nothing%0Ahere")
    client.get("/healthz")
    line, other = requests()
    assert line["ms"] >= 0
    said = {name: line[name] for name in ("method", "route", "status", "search_id", "level", "service", "message")}
    assert said == {
        "method": "GET",
        "route": "/v1/searches/{search_id}/trials",
        "status": 404,
        "search_id": "srch_1",
        "level": "info",
        "service": "api",
        "message": "GET /v1/searches/srch_1/trials 404",
    }
    assert (other["route"], other["status"]) == ("none", 404)


def test_what_fails_is_one_line_more_with_the_same_request_id(
    store: SqlStore,
    settings: Settings,
    order: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        raise RuntimeError("password=hunter2")

    caplog.set_level(logging.INFO)
    app = create_app(store, settings, broken)
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1") as client:
        client.post("/v1/searches:validate", json=order(), headers={"X-Request-ID": "mine-1"})
        counted = client.get("/metrics").text
    lines = [logs.Json({}).format(record) for record in caplog.records]
    assert not any("hunter2" in line for line in lines)
    told = [json.loads(line) for line in lines]
    assert [line["status"] for line in told if line["logger"] == "automl_prune.requests"] == [500]
    (error,) = [line for line in told if line["level"] == "error"]
    assert error["request_id"] == "mine-1"
    assert 'automl_prune_http_requests_total{method="POST",route="/v1/searches:validate",status="500"} 1.0' in counted


def test_requests_are_counted_by_pattern(client: TestClient) -> None:
    for path in ("/v1/searches/a", "/v1/searches/b", "/v1/searches?limit=0", "/web/app.js", "/x", "/y"):
        client.get(path)
    client.request("BREW", "/v1/searches")
    counted = client.get("/metrics")
    assert counted.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'automl_prune_http_requests_total{method="GET",route="/v1/searches/{search_id}",status="404"} 2.0',
        'automl_prune_http_requests_total{method="GET",route="/v1/searches",status="422"} 1.0',
        'automl_prune_http_requests_total{method="GET",route="/web",status="200"} 1.0',
        'automl_prune_http_requests_total{method="GET",route="none",status="404"} 2.0',
        'automl_prune_http_requests_total{method="other",route="/v1/searches",status="405"} 1.0',
        'automl_prune_http_request_seconds_count{method="GET",route="none"} 2.0',
    ):
        assert line in counted.text, line


def test_the_database_is_counted(
    client: TestClient, store: SqlStore, fill: Callable[[Store], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.0)
    job_id = fill(store)
    store.add_search({}, name=None, labels={})
    counted = client.get("/metrics").text
    for line in (
        "automl_prune_database_up 1.0",
        'automl_prune_searches{state="running"} 1.0',
        'automl_prune_searches{state="queued"} 1.0',
        'automl_prune_searches{state="failed"} 0.0',
        'automl_prune_trials{state="complete"} 12.0',
        'automl_prune_trials{state="failed"} 1.0',
        'automl_prune_trials{state="pending"} 1.0',
        "automl_prune_queue_length 1.0",
        "automl_prune_lease_losses_total 0.0",
        'automl_prune_trial_seconds_count{state="complete"} 11.0',  # the base network's was never started
        'automl_prune_trial_seconds_count{state="failed"} 1.0',
        "automl_prune_event_streams 0.0",
    ):
        assert line in counted, line
    before = total(counted, "automl_prune_executor_overhead_seconds_total")
    assert before < 0.99 * total(counted, "automl_prune_trial_seconds_sum"), "evaluation is no overhead"
    assert "default" not in counted
    assert job_id not in counted
    store.record_start(job_id, 1, 12)
    store.record_outcome(job_id, 1, 12, Outcome(TrialState.COMPLETE, {}, {"seconds": 0.0}))
    store.release(job_id, 1, reason="gone", lost=True)
    counted = client.get("/metrics").text
    assert 'automl_prune_trial_seconds_count{state="complete"} 12.0' in counted
    assert total(counted, "automl_prune_executor_overhead_seconds_total") > before
    assert "automl_prune_lease_losses_total 1.0" in counted


def total(counted: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in counted.splitlines() if line.startswith(name))


def test_figures_are_read_now_and_then(client: TestClient, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 1e9)
    assert "automl_prune_queue_length 0.0" in client.get("/metrics").text
    store.add_search({}, name=None, labels={})
    assert "automl_prune_queue_length 0.0" in client.get("/metrics").text


def test_requests_are_counted_without_a_database(
    client: TestClient, without_table: Callable[[str], AbstractContextManager[None]]
) -> None:
    with without_table("search_attempts"):
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "automl_prune_database_up 0.0" in answer.text
    assert "automl_prune_searches" not in answer.text


@pytest.fixture
def lines() -> Callable[[logging.Formatter], Callable[..., str]]:
    """Formats one call of a logger."""

    def make(form: logging.Formatter) -> Callable[..., str]:
        def line(message: str, *arguments: object, **options: Any) -> str:
            extra = options.pop("extra", {})
            record = logging.getLogger("toy").makeRecord(
                "toy", logging.WARNING, __file__, 1, message, arguments, options.pop("exc_info", None), extra=extra
            )
            return form.format(record)

        return line

    return make


def test_text_stays_on_its_line(lines: Callable[[logging.Formatter], Callable[..., str]]) -> None:
    with logs.about(request_id="r1"):
        line = lines(logs.Text())("GET %s", "/a\n2026 INFO forged\x1b[2J", extra={"search_id": "s1", "attempt": None})
    assert line.endswith("WARNING toy GET /a 2026 INFO forged [2J request_id=r1 search_id=s1")
    assert "request_id" not in lines(logs.Text())("later")


def test_json_carries_fields_and_tracebacks(lines: Callable[[logging.Formatter], Callable[..., str]]) -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        text = lines(logs.Json({"attempt": 2}))("failed: %s", "ä", exc_info=sys.exc_info(), extra={"path": Path("x")})
    assert "\n" not in text
    line = json.loads(text)
    assert line["at"].endswith("+00:00")
    assert line["exception"].endswith("ValueError: one\ntwo")
    said = {name: line[name] for name in ("level", "message", "attempt", "path")}
    assert said == {"level": "warning", "message": "failed: ä", "attempt": 2, "path": "x"}


def test_a_search_s_log_is_read_in_pieces(
    client: TestClient, store: SqlStore, settings: Settings, fill: Callable[[Store], str]
) -> None:
    job_id = fill(store)
    path = f"/v1/searches/{job_id}/logs"
    empty = client.get(path)
    assert (empty.status_code, empty.text, empty.headers["log-size"]) == (200, "", "0")
    file = settings.artifacts_root / job_id / "search.log"
    file.write_bytes("".join(f"line {i} ä\n" for i in range(10)).encode())
    whole = client.get(path)
    assert whole.text.count("\n") == 10
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    tail = client.get(path, params={"limit": 25})
    assert tail.text == "line 8 ä\nline 9 ä\n"
    assert (tail.headers["log-offset"], tail.headers["log-next-offset"], tail.headers["log-size"]) == ("80", "100", "100")
    pieces, offset = [], "0"
    while piece := client.get(path, params={"limit": 25, "offset": offset}):
        if not piece.text:
            break
        pieces.append(piece.text)
        offset = piece.headers["log-next-offset"]
    assert "".join(pieces) == whole.text
    assert all(piece.endswith("\n") for piece in pieces)
    file.write_bytes(file.read_bytes() + b"new\n")
    assert client.get(path, params={"offset": offset}).text == "new\n"
    assert client.get(path, params={"offset": 10**9}).text == ""


def test_a_log_elsewhere_is_not_shown(
    client: TestClient, store: SqlStore, settings: Settings, fill: Callable[[Store], str], tmp_path: Path
) -> None:
    job_id = fill(store)
    (tmp_path / "secret").write_text("secret\n")
    (settings.artifacts_root / job_id / "search.log").symlink_to(tmp_path / "secret")
    assert client.get(f"/v1/searches/{job_id}/logs").text == ""
    assert client.get("/v1/searches/srch_unknown/logs").status_code == 404
    for query in ("offset=-1", "limit=0", "limit=9999999"):
        assert client.get(f"/v1/searches/{job_id}/logs?{query}").status_code == 422
