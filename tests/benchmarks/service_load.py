"""Load on an API for tests/benchmarks/service.py: clients in threads, and listeners of events in one loop."""

import asyncio
import http.client
import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from automl_prune.loop.job import SearchState
from automl_prune.space import Candidate
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, Trial, TrialState

TRIALS = 40
"""Trials whose events are sent to all listeners."""


@dataclass(frozen=True)
class Figures:
    """What was measured: milliseconds of each request or event, and the seconds that all took together."""

    milliseconds: list[float]
    seconds: float

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.milliseconds)

    @property
    def per_second(self) -> float:
        """How many there were in a second."""
        return self.count / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds that so many percent did not exceed."""
        if self.count < 2:
            return self.milliseconds[0] if self.milliseconds else float("nan")
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[percent - 1]


def measure(port: int, path: Callable[[int], str], clients: int, seconds: float) -> Figures:
    """GET ``path(0)``, ``path(1)``, … with so many clients for so many seconds, over connections that stay open."""
    return _load(lambda connection, n: _request(connection, "GET", path(n)), port, clients, seconds)


def submissions(port: int, order: Mapping[str, Any], clients: int, seconds: float, *, fresh: bool) -> Figures:
    """POST searches, each with an idempotency key of its own, or all with one."""
    body, one = json.dumps(order), uuid.uuid4().hex

    def submit(connection: http.client.HTTPConnection, _: int) -> None:
        key = uuid.uuid4().hex if fresh else one
        _request(connection, "POST", "/v1/searches", body, {"Idempotency-Key": key, "Content-Type": "application/json"})

    first = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    submit(first, 0)  # the network is admitted once
    first.close()
    return _load(submit, port, clients, seconds)


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None, headers: Any = None
) -> None:
    connection.request(method, path, body=body, headers=headers or {})
    response = connection.getresponse()
    content = response.read()
    if response.status >= 400:
        raise SystemExit(f"{method} {path}: {response.status} {content[:500]!r}")


def _load(request: Callable[[http.client.HTTPConnection, int], None], port: int, clients: int, seconds: float) -> Figures:
    found: list[list[float]] = [[] for _ in range(clients)]
    request(http.client.HTTPConnection("127.0.0.1", port, timeout=120), 0)
    began = time.perf_counter()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        number = client
        while (started := time.perf_counter()) - began < seconds:
            request(connection, number)
            found[client].append(1e3 * (time.perf_counter() - started))
            number += clients
        connection.close()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Figures([one for some in found for one in some], time.perf_counter() - began)


def fan_out(port: int, store: SqlStore, listeners: int) -> Figures:
    """Let a running search have trials while so many listen to it; from each event's time to its arrival."""
    job = store.add_search({"strategy": {"name": "random"}}, name=None, labels={}, priority=9)
    claimed = store.claim(lease_seconds=600)
    assert claimed is not None
    assert claimed.id == job.id
    store.set_state(job.id, claimed.attempt, SearchState.RUNNING)
    return asyncio.run(_listen(port, store, job.id, claimed.attempt, listeners))


async def _listen(port: int, store: SqlStore, search_id: str, attempt: int, listeners: int) -> Figures:
    arrivals: list[float] = []
    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(_follow(port, search_id, arrivals, ready)) for _ in range(listeners)]
    for _ in range(listeners):
        await asyncio.wait_for(ready.acquire(), 120)
    began = time.perf_counter()
    await asyncio.to_thread(_publish, store, search_id, attempt)
    await asyncio.wait_for(asyncio.gather(*tasks), 300)
    return Figures(arrivals, time.perf_counter() - began)


async def _follow(port: int, search_id: str, arrivals: list[float], ready: asyncio.Semaphore) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /v1/searches/{search_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(request.encode())
    status = await reader.readline()
    assert b" 200 " in status, status
    kind = ""
    while line := (await reader.readline()).decode():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:") and kind == "search.state" and '"running"' in line:
            ready.release()
        elif line.startswith("data:") and kind.startswith("trial."):
            at = datetime.fromisoformat(json.loads(line[5:])["at"])
            arrivals.append(1e3 * (datetime.now(UTC) - at).total_seconds())
        elif line.startswith("data:") and kind == "end":
            break
    writer.close()


def _publish(store: SqlStore, search_id: str, attempt: int) -> None:
    for number in range(TRIALS):
        store.record_ask(search_id, attempt, Trial(number, Candidate((8, 8)), "search"))
        store.record_start(search_id, attempt, number)
        outcome = Outcome(TrialState.COMPLETE, {"top1": 0.5 + number / 1000}, {"seconds": 0.0})
        store.record_outcome(search_id, attempt, number, outcome)
    store.set_state(search_id, attempt, SearchState.SUCCEEDED, reason="finished")
