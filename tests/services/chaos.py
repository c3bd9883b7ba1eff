"""Parts of a real service killed at random moments, and what must be so afterwards, whatever died when."""

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil

from automl_prune.loop.job import Event, EventKind, SearchState
from automl_prune.storage.sql import SqlStore
from services.settings import Settings, environment
from tests.services.waiting import until

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "abc", "options": {"population": 4}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 20},
    "base_training": {"epochs": 2},
    "trials": {"max": 150, "parallel": 1},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 1},
    "execution": "actors",
}
"""One trial at a time: what is asked next does not depend on who is quicker."""
SMALL = ORDER | {"trials": {"max": 2}, "controls": [], "finish": {"top_k": 1, "recovery": "none"}, "execution": "inline"}
"""Ordered right before the API is killed."""
KINDS = ("api", "launcher", "driver", "worker", "raylet", "head")
GIVE_UP_SECONDS = 600.0


class Service:
    """``automl-prune serve`` as a tree of processes; started again after its top, the API, was killed."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._starts = settings, 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        self._log = self._settings.home / f"serve-{self._starts}.log"
        command = [sys.executable, "-m", "services.cli", "serve", "--port", "0"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=os.environ | environment(self._settings), stdout=log, stderr=log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(90)

    def order(self, body: dict[str, Any]) -> str:
        """Order a search; its id, once the service has said 201."""
        until(lambda: self._address() is not None, GIVE_UP_SECONDS)
        answer = httpx.post(f"{self._address()}/v1/searches", json=body, timeout=GIVE_UP_SECONDS, trust_env=False)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def kill(self, kind: str) -> bool:
        """Kill a process of the kind, if there is one now."""
        if kind == "api":
            self.process.kill()
            self.process.wait()
            self.start()
            return True
        with suppress(psutil.NoSuchProcess):
            found = [p for p in psutil.Process(self.process.pid).children(recursive=True) if _is(p, kind)]
            if found:
                found[0].kill()
                return True
        return False

    def _address(self) -> str | None:
        found = re.search(r"listening on (\S+)", self._log.read_text(errors="replace"))
        return found[1] if found else None


def _is(process: psutil.Process, kind: str) -> bool:
    try:
        line, name = " ".join(process.cmdline()), process.name()
    except psutil.Error:
        return False
    wanted: dict[str, bool] = {
        "launcher": "services.launcher" in line and "local_ray" not in line,
        "driver": "services.driver" in line,
        "worker": line.startswith("ray::") and "IDLE" not in line,
        "raylet": name == "raylet",
        "head": name == "gcs_server",
    }
    return wanted[kind]


@dataclass
class Kill:
    """What was killed, and the seconds until the search had another outcome; None where that was not waited for."""

    kind: str
    recovery: float | None


@dataclass
class Chaos:
    """Kills something every now and then.

    Args:
        service: Whose parts.
        store: Its store.
        rng: Says what and when.
        kinds: What may be killed.
        every: Seconds between a recovery and the next kill, on average.
        patient: Whether each recovery is waited for; otherwise the next kill may come into it.
    """

    service: Service
    store: SqlStore
    rng: random.Random
    kinds: Sequence[str] = KINDS
    every: float = 8.0
    patient: bool = True
    accepted: list[str] = field(default_factory=list)
    """Searches of :data:`SMALL` whose 201 came right before the API was killed."""

    def disturb(self, search_id: str, seconds: float) -> Iterator[Kill]:
        """Kill for so long, or until the search has ended, which is waited for."""
        over = partial(_ended, self.store, search_id)
        until(lambda: _told(self.store, search_id) >= 2, GIVE_UP_SECONDS)
        give_up = time.monotonic() + seconds
        while not over() and time.monotonic() < give_up:
            time.sleep(self.rng.uniform(0, 2 * self.every))
            kind = self.rng.choice(list(self.kinds))
            if over() or time.monotonic() > give_up:
                break
            if kind == "api":
                self.accepted.append(self.service.order(SMALL))
            before = _told(self.store, search_id)
            if self.service.kill(kind):
                goes_on = partial(lambda told: _told(self.store, search_id) > told or over(), before)
                yield Kill(kind, self._recovery(kind, goes_on))
        until(over, GIVE_UP_SECONDS)

    def check_accepted(self, expected: dict[str, Any], kills: int) -> None:
        """Wait for every search that was accepted right before the API died, and hold it to an undisturbed one."""
        for search_id in self.accepted:
            until(partial(_ended, self.store, search_id), GIVE_UP_SECONDS)
            check(self.store, search_id, expected, kills)

    def _recovery(self, kind: str, recovered: Callable[[], bool]) -> float | None:
        """A trial may lose three workers, so that after a worker's death another outcome is always waited for."""
        began = time.monotonic()
        waits = GIVE_UP_SECONDS if self.patient or kind == "worker" else self.rng.uniform(0, 4 * self.every)
        try:
            until(recovered, waits)
        except AssertionError:
            if waits == GIVE_UP_SECONDS:
                raise
            return None
        return time.monotonic() - began


def undisturbed(service: Service, store: SqlStore, order: dict[str, Any]) -> dict[str, Any]:
    """What a search asks and gets that nothing happens to."""
    search_id = service.order(order)
    until(partial(_ended, store, search_id), GIVE_UP_SECONDS)
    check(store, search_id, account(store, search_id), kills=0)
    return account(store, search_id)


def account(store: SqlStore, search_id: str) -> dict[str, Any]:
    """A search's asks and outcomes."""
    trials = [t.trial for t in store.trials(search_id)]
    return {
        "asks": [(t.number, t.arm, t.candidate) for t in trials],
        "outcomes": [(t.number, t.state, t.metrics.get("top1")) for t in trials],
    }


def check(store: SqlStore, search_id: str, expected: dict[str, Any], kills: int) -> None:
    """Hold a disturbed search to an undisturbed one, and its events to promise: nothing lost, nothing done twice.

    Each kill costs at most the one evaluation that was under way.
    """
    job = store.get_search(search_id)
    assert job.state is SearchState.SUCCEEDED, job.state_reason
    for part, value in account(store, search_id).items():
        assert value == expected[part], f"{part} of {search_id} differ from an undisturbed search's"
    stored = store.trials(search_id)
    assert all(t.told_seq is not None for t in stored), "a trial has no outcome"
    events = list(_events(store, search_id))
    told = [e.data["number"] for e in events if e.kind is EventKind.COMPLETED]
    assert Counter(told) == Counter(t.trial.number for t in stored), "told trials are not the stored ones, each once"
    started, done = Counter[int](), set[int]()
    for event in events:
        if event.kind is EventKind.STARTED:
            number = event.data["number"]
            assert number not in done, f"trial {number} of {search_id} was evaluated again after it had ended"
            started[number] += 1
        elif event.kind is EventKind.COMPLETED:
            done.add(event.data["number"])
    assert started.total() <= len(started) + kills, f"{started} evaluations with {kills} kills"


def _events(store: SqlStore, search_id: str) -> Iterator[Event]:
    after = 0
    while page := store.events(search_id, after=after, limit=500):
        yield from page
        after = page[-1].id


def _ended(store: SqlStore, search_id: str) -> bool:
    return store.get_search(search_id).state.is_terminal


def _told(store: SqlStore, search_id: str) -> int:
    return sum(count for states in store.progress(search_id).values() for s, count in states.items() if s == "complete")
