"""A service around a toy network of two convolutions: its costs are exact, its accuracies made up."""

import hashlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from automl_prune.errors import UnknownNameError
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work
from automl_prune.loop.job import DEFAULT_TENANT, Artifact, SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.problem import Budget, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.trial import Outcome, Trial, TrialState
from services.agent.agent import Agent
from services.api.app import create_app
from services.api.context import Review
from services.api.server import Server
from services.settings import Settings, load_settings
from tests.services.agents import Mortal

SPACE = ChannelSpace(("conv1", "conv2"), (tuple(range(4, 17, 4)), tuple(range(8, 33, 8))))
WEIGHTS = b"not really weights"

Order = Callable[..., dict[str, Any]]
Fill = Callable[[Store], str]


def cost(widths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
    first, second = widths[:, 0].astype(float), widths[:, 1].astype(float)
    macs = 1024 * 9 * (3 * first + first * second) + 10 * second
    return {"macs": macs, "params": 9 * (3 * first + first * second) + 10 * second}


def problem(spec: SearchSpec) -> Problem:
    if spec.search_space.name != "toy":
        raise UnknownNameError("search space", spec.search_space.name, ["toy"], pointer="/search_space/name")
    full = Problem(SPACE, cost).costs(SPACE.full)
    budgets = [Budget(b.metric, b.max or (b.max_ratio or 1) * full[b.metric]) for b in spec.budgets]
    return Problem(SPACE, cost, budgets=tuple(budgets))


def check(spec: SearchSpec, tenant: str = DEFAULT_TENANT) -> Mapping[str, Any]:
    found = problem(spec)
    found.check_reachable()
    return {
        "groups": len(SPACE),
        "log10_size": SPACE.log10_size,
        "base": found.costs(SPACE.full),
        "budgets": [{"metric": b.metric, "max": b.max, "min": b.min} for b in found.budgets],
        "evaluations": spec.trials.max * (1 + len(spec.controls)),
    }


def accuracy(candidate: Candidate) -> float:
    return 0.9 - 0.8 / candidate.widths[0] - 1.6 / candidate.widths[1]


def outcome(found: Problem, trial: Trial) -> Outcome:
    if trial.number == 3:
        return Outcome.failed("The loss was NaN <script>alert(1)</script>.", {"seconds": 0.5})
    metrics = {"top1": accuracy(trial.candidate), **found.costs(trial.candidate)}
    return Outcome(TrialState.COMPLETE, metrics, {"seconds": 1.5})


def run(store: Store, job_id: str, attempt: int, found: Problem) -> None:
    """Ask and tell eight trials of the search, three of the random control, one of the uniform one, and the base."""
    rng = np.random.default_rng(0)
    for number in range(12):
        arm = "uniform" if number == 11 else "random" if number >= 8 else "search"
        drawn = Candidate(tuple(int(rng.choice(choices)) for choices in SPACE.choices))
        within = drawn if found.is_feasible(drawn) else SPACE.narrowest
        trial = Trial(number, found.widest_uniform if arm == "uniform" else within, arm, origin={"why": "toy"})
        store.record_ask(job_id, attempt, trial)
        store.record_start(job_id, attempt, number)
        store.record_outcome(job_id, attempt, number, outcome(found, trial))
    store.record_ask(job_id, attempt, Trial(12, SPACE.narrowest))
    store.record_ask(job_id, attempt, Trial(13, SPACE.full, "base"))
    store.record_outcome(job_id, attempt, 13, outcome(found, Trial(13, SPACE.full)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a module says ``SLOW_ON_POSTGRESQL``, its tests run on SQLite by default, and on PostgreSQL with -m slow."""
    for item in items:
        if isinstance(item, pytest.Function) and getattr(item.module, "SLOW_ON_POSTGRESQL", False):
            chosen = item.callspec.params.get("store") if hasattr(item, "callspec") else None
            if chosen == "postgresql":
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def review() -> Review:
    return check


@pytest.fixture
def order() -> Order:
    """Makes a valid order, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        plain = {
            "name": "toy search",
            "search_space": {"name": "toy"},
            "dataset": {"name": "digits", "select_size": 100},
            "strategy": {"name": "random"},
            "budgets": [{"metric": "macs", "max_ratio": 0.5}],
            "trials": {"max": 8},
        }
        return plain | changes

    return make


@pytest.fixture
def fill(order: Order, settings: Settings) -> Fill:
    """Puts a running search with trials and one file into a store, and returns its id."""

    def put(store: Store) -> str:
        spec = SearchSpec.parse(order(labels={"team": "edge"}))
        found = problem(spec)
        job_id = store.add_search(spec.model_dump(mode="json"), name=spec.name, labels=spec.labels).id
        claimed = store.claim(lease_seconds=600)
        assert claimed is not None
        assert claimed.id == job_id
        summary = dict(check(spec))
        info = {
            "base": summary["base"],
            "space": {"names": list(SPACE.names), "full": list(SPACE.full.widths), "log10_size": SPACE.log10_size},
            "budgets": summary["budgets"],
            "evaluations": summary["evaluations"],
            "splits": {name: {"size": size} for name, size in (("fit", 1000), ("select", 100), ("report", 300))},
            "executor": {"kind": "actors", "workers": 2},
            "links": {"ray_dashboard": "http://127.0.0.1:8265"},
        }
        store.set_state(job_id, claimed.attempt, SearchState.RUNNING, info=info)
        run(store, job_id, claimed.attempt, found)
        folder = settings.artifacts_root / job_id
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        store.add_artifact(job_id, claimed.attempt, Artifact("model.safetensors", len(WEIGHTS), digest))
        return job_id

    return put


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "empty.sqlite3"
    SqlStore.open(f"sqlite:///{path}", upgrade=True).close()
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, max_body_bytes=10_000, public_url=None)


@pytest.fixture(scope="module")
def admitted_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache_of_networks(admitted_networks: Path) -> Path:
    """What was learned of networks, as admitting one takes seconds, and nothing of devices."""
    shutil.rmtree(admitted_networks / "latency", ignore_errors=True)
    return admitted_networks


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, empty_database: Path, tmp_path: Path) -> Iterator[SqlStore]:
    """An empty one, on each kind of database; a module that takes long says ``SLOW_ON_POSTGRESQL = True``."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'automl-prune.sqlite3')}"
    opened = SqlStore(url)
    yield opened
    opened.close()


@pytest.fixture
def without_table(store: SqlStore) -> Callable[[str], AbstractContextManager[None]]:
    """Makes blocks in which the database lacks a table."""

    @contextmanager
    def without(table: str) -> Iterator[None]:
        rename(store, table, "elsewhere")
        try:
            yield
        finally:
            rename(store, "elsewhere", table)

    return without


def rename(store: SqlStore, table: str, name: str) -> None:
    with store.database.write() as session:
        session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


@pytest.fixture
def app(store: SqlStore, settings: Settings, review: Review) -> FastAPI:
    return create_app(store, settings, review)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], str]]:
    """Serves an app over real HTTP on a free port of this machine, and returns its address."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(app: FastAPI) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server(app, grace_seconds=1, log_level="error")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def devices(store: SqlStore) -> SqlDevices:
    return SqlDevices(store.database)


@pytest.fixture
def start() -> Iterator[Callable[..., None]]:
    """Starts agents as threads, which end with the test."""
    over, threads = threading.Event(), []

    def run(address: str, time_it: Callable[[Conditions, Work], Timing] | None = None, name: str = "pi") -> None:
        with suppress(SystemExit), Mortal(address, over) as link:
            Agent(link, name, time_it).run()

    def begin(*args: Any, **options: Any) -> None:
        threads.append(threading.Thread(target=run, args=args, kwargs=options, daemon=True))
        threads[-1].start()

    yield begin
    over.set()
    for thread in threads:
        thread.join(60)
