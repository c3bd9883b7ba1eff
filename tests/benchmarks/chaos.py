"""Kills parts of a running service at random moments, for a while, and says how soon the search went on after each.

    python tests/benchmarks/chaos.py --minutes 20 --seed 1

A service with a local Ray runs one search after the other. Every few seconds one of its processes gets SIGKILL: the API
with its launcher's parent, the launcher, the driver, a Ray worker, the raylet, or Ray's head. Recovery is the time until
another trial was recorded. At the end of every search its asks and outcomes must be those of an undisturbed one.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from automl_prune.loop.job import SearchState
from automl_prune.storage.sql import SqlStore
from services.settings import Settings, environment, load_settings
from services.wiring import open_store

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
KINDS = ("api", "launcher", "driver", "worker", "raylet", "head")
GIVE_UP_SECONDS = 600.0


class Service:
    """The service as a process tree that is started again when it was killed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = (settings.home / "serve.log").open("ab")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "services.cli", "serve", "--port", "0"]
        variables = os.environ | environment(self._settings)
        self.process = subprocess.Popen(command, env=variables, stdout=self._log, stderr=self._log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(90)

    def find(self, kind: str) -> psutil.Process | None:
        """A process of the kind, if there is one now."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        found = [p for p in below if _is(p, kind)] if kind != "api" else [psutil.Process(self.process.pid)]
        return found[0] if found else None


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


def until(what: Callable[[], bool]) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > GIVE_UP_SECONDS:
            raise SystemExit("nothing happened any more")
        time.sleep(0.05)
    return time.monotonic() - began


def told(store: SqlStore, search_id: str) -> int:
    return sum(count for states in store.progress(search_id).values() for s, count in states.items() if s == "complete")


def account(store: SqlStore, search_id: str) -> dict[str, Any]:
    trials = [t.trial for t in store.trials(search_id)]
    return {
        "asks": [(t.number, t.arm, t.candidate) for t in trials],
        "outcomes": [(t.number, t.state, t.metrics.get("top1")) for t in trials],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--every", type=float, default=8, help="seconds between a recovery and the next kill, on average")
    options.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        run(Path(folder), given)


def run(home: Path, given: argparse.Namespace) -> None:
    settings = load_settings(home=home, workers=1, max_attempts=1_000_000)
    store, rng = open_store(settings), random.Random(given.seed)
    service, recoveries = Service(settings), dict[str, list[float]]()
    try:
        expected = undisturbed(store)
        give_up = time.monotonic() + 60 * given.minutes
        searches = 0
        while time.monotonic() < give_up:
            search_id = order(store)
            disturb(service, store, search_id, rng, given, recoveries)
            found = account(store, search_id)
            assert store.get_search(search_id).state is SearchState.SUCCEEDED, store.get_search(search_id).state_reason
            for part, value in expected.items():
                assert found[part] == value, f"{part} of {search_id} differ from an undisturbed search's"
            searches += 1
    finally:
        service.stop()
    print(f"{searches} searches ended as the undisturbed one\n| killed | times | s until the next trial, median | most |")
    print("|---|--:|--:|--:|")
    for kind, seconds in recoveries.items():
        print(f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |")


def order(store: SqlStore) -> str:
    return store.add_search(ORDER, name=None, labels={}).id


def undisturbed(store: SqlStore) -> dict[str, Any]:
    search_id = order(store)
    until(lambda: store.get_search(search_id).state.is_terminal)
    return account(store, search_id)


def disturb(
    service: Service,
    store: SqlStore,
    search_id: str,
    rng: random.Random,
    given: argparse.Namespace,
    recoveries: dict[str, list[float]],
) -> None:
    """Kill something every now and then until the search has ended."""

    def ended() -> bool:
        return store.get_search(search_id).state.is_terminal

    def recovered(before: int) -> bool:
        return told(store, search_id) > before or ended()

    until(lambda: told(store, search_id) >= 2)
    while not ended():
        time.sleep(rng.uniform(0, 2 * given.every))
        kind = rng.choice(list(given.kinds))
        victim = service.find(kind)
        if victim is None or ended():
            continue
        before = told(store, search_id)
        victim.kill()
        if kind == "api":
            service.process.wait()
            service.start()
        recoveries.setdefault(kind, []).append(until(partial(recovered, before)))
        print(f"{kind}: {recoveries[kind][-1]:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
