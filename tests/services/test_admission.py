"""Networks that hang, crash or raise, in a real service over real HTTP: each costs its own order, and nothing else."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import services.admission
import services.settings
from automl_prune.architecture import Architecture
from automl_prune.errors import TraceError, UserError
from automl_prune.loop.admission import admitted
from automl_prune.networks import NETWORKS
from services.admission import (
    MOST_OF_TENANT,
    MOST_WAITING,
    NETWORKS_OF_TENANT,
    Admissions,
    BusyError,
    admit_in_child,
    verification_seconds,
)
from services.settings import Settings, load_settings
from tests.services.waiting import until

LIMIT = 15.0
"""Of the server, for the network that hangs."""
AWKWARD = """
import os, signal, subprocess, sys, time
from pathlib import Path
import torch
from automl_prune.networks import NETWORKS, NetworkDefinition
from search_spaces.cifar_resnet import CifarResNet

def good(classes):
    print("hello from a plug-in")
    return CifarResNet(1, classes, in_channels=1, widths=(4, 8, 8))

def hangs(classes):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(os.environ["AWKWARD_PIDS"]).write_text(f"{os.getpid()} {helper.pid}")
    while True:
        time.sleep(1)

def crashes(classes):
    os.kill(os.getpid(), signal.SIGSEGV)

def raises(classes):
    raise KeyError("/home/somebody/model.py is not\\nwhat it was")

def exits(classes):
    os._exit(7)

def constant(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 4), torch.nn.Threshold(1e9, 0.0))

for build in (good, hangs, crashes, raises, exits, constant):
    NETWORKS.add(f"awkward_{build.__name__}", NetworkDefinition(
        name=f"awkward_{build.__name__}", build=build, input_shape=(1, 12, 12), num_classes=10, mean=(0.5,), std=(0.3,)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("awkward")
    (made / "awkward.py").write_text(AWKWARD)
    return made


@pytest.fixture(scope="module")
def awkward(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which children find the awkward plug-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.setenv("AWKWARD_PIDS", str(folder / "pids"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield patch


@pytest.fixture(scope="module")
def settings(awkward: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return load_settings(home=home, plugins="awkward", admission_seconds=600)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("awkward_exits", "'awkward_exits' cannot be searched: building it, the process ended with exit code 7."),
        (
            "awkward_raises",
            "'awkward_raises' cannot be searched: building it failed with KeyError: 'model.py is not\\nwhat it was'.",
        ),
        (
            "awkward_constant",
            "Sequential cannot be verified: with random weights, its output hardly depends on its input.",
        ),
    ],
)
def test_what_goes_wrong_is_said(settings: Settings, name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        admit_in_child(name, 10, settings)
    assert str(caught.value).startswith(said)
    assert caught.value.pointer == "/search_space/name"
    assert isinstance(caught.value, TraceError) == ("verified" in said)


def test_a_child_learns_what_this_process_would(settings: Settings, tmp_path: Path) -> None:
    learned = admit_in_child("digits_resnet", 10, settings)
    assert learned == admitted(NETWORKS.get("digits_resnet"), 10, tmp_path)
    assert Admissions(settings).known(NETWORKS.get("digits_resnet"), 10, settings.cache_dir) == learned


def test_two_processes_that_learn_the_same_at_once_agree(settings: Settings, tmp_path: Path) -> None:
    apart = settings.model_copy(update={"cache_dir": tmp_path})
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: admit_in_child("awkward_good", 10, apart), range(2))
    assert first == second
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]


class Held:
    """Admissions that are held up until ``go`` is set, and then fail; ``asked`` are the networks."""

    def __init__(self, settings: Settings) -> None:
        self.asked: list[tuple[str, int]] = []
        self.go, self.admissions, self.cache = threading.Event(), Admissions(settings), settings.home / "empty"
        self.pool = ThreadPoolExecutor(MOST_WAITING + 1)

    def admit(self, name: str, num_classes: int, settings: Settings) -> Architecture:
        self.asked.append((name, num_classes))
        assert self.go.wait(240)
        raise UserError("no")

    def order(self, classes: int, tenant: str) -> Future[Architecture]:
        """Order a network; returns when that waits, or was refused."""
        before, network = self.admissions.waiting, NETWORKS.get("resnet20")
        future = self.pool.submit(self.admissions, network, classes, self.cache, tenant=tenant)
        end = time.monotonic() + 60
        while self.admissions.waiting == before and not future.done() and time.monotonic() < end:
            time.sleep(0.01)
        return future


@pytest.fixture
def held(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(settings)
    monkeypatch.setattr(services.admission, "admit_in_child", made.admit)
    with made.pool:
        try:
            yield made
        finally:
            made.go.set()


def test_orders_for_one_network_share_one_admission(held: Held) -> None:
    waiting = [held.order(3, tenant) for tenant in ("a", "b") for _ in range(MOST_OF_TENANT)]
    with pytest.raises(BusyError, match="Too many networks"):
        held.order(3, "c").result(60)
    held.go.set()
    assert len(waiting) == MOST_WAITING
    assert all(isinstance(each.exception(), UserError) for each in waiting)
    assert held.asked == [("resnet20", 3)]
    assert held.admissions.waiting == 0
    with pytest.raises(UserError, match="no"):
        held.order(3, "a").result(60)


def test_one_tenant_leaves_room_for_the_others(held: Held) -> None:
    orders = [held.order(classes, "greedy") for classes in range(2, 2 + NETWORKS_OF_TENANT)]
    with pytest.raises(BusyError, match="you ordered"):
        held.order(99, "greedy").result(60)
    orders += [held.order(2, "greedy") for _ in range(MOST_OF_TENANT - NETWORKS_OF_TENANT)]
    with pytest.raises(BusyError, match="you ordered"):
        held.order(2, "greedy").result(60)
    orders.append(held.order(99, "modest"))
    held.go.set()
    assert all(isinstance(each.exception(), UserError) for each in orders)
    assert ("resnet20", 99) in held.asked


@pytest.fixture(scope="module")
def client(settings: Settings, awkward: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A real server in a process of its own, which runs nothing."""
    hasty = settings.model_copy(update={"admission_seconds": LIMIT})
    # known before, as a busy machine may need as long for it as the network that hangs has
    admitted(NETWORKS.get("digits_resnet"), 10, hasty.cache_dir, seconds=verification_seconds(hasty))
    command = [sys.executable, "-m", "services.cli", "serve", "--no-launcher", "--port", "0"]
    environment = os.environ | services.settings.environment(hasty)
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        with httpx.Client(base_url=server.stdout.readline().split()[-1], timeout=300) as opened:
            yield opened
    finally:
        server.terminate()
        server.communicate(timeout=120)


def order(network: str) -> dict[str, Any]:
    return {
        "search_space": {"name": network},
        "dataset": {"name": "digits", "select_size": 300},
        "strategy": {"name": "random"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    }


def test_a_network_that_hangs_holds_nobody_else(client: httpx.Client, folder: Path) -> None:
    assert client.post("/v1/searches:validate", json=order("digits_resnet")).status_code == 200
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(client.post, "/v1/searches", json=order("awkward_hangs"))
        file = folder / "pids"
        until(lambda: hanging.done() or (file.exists() and file.read_text().count(" ") == 1))
        pids = [int(pid) for pid in file.read_text().split()]
        assert all(map(is_running, pids))
        assert client.get("/healthz").status_code == 200
        placed = client.post("/v1/searches", json=order("digits_resnet"))
        assert placed.status_code == 201
        assert not hanging.done()
        answer = hanging.result()
    assert LIMIT <= time.monotonic() - began < LIMIT + 200
    assert answer.status_code == 422
    fault = answer.json()["errors"][0]
    assert fault["pointer"] == "/search_space/name"
    assert fault["detail"] == (
        "Admitting 'awkward_hangs' took longer than 15 s and was stopped while building it; a network that needs more time "
        "gets it with AUTOML_PRUNE_ADMISSION_SECONDS."
    )
    assert gone(pids)
    assert [job["id"] for job in client.get("/v1/searches").json()["items"]] == [placed.json()["id"]]


def test_a_network_that_crashes_is_refused_and_the_next_is_taken(client: httpx.Client) -> None:
    before = client.get("/v1/searches").json()["items"]
    answer = client.post("/v1/searches", json=order("awkward_crashes"))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/search_space/name")
    said = "'awkward_crashes' cannot be searched: building it, the process was ended by SIGSEGV."
    assert answer.json()["errors"][0]["detail"] == said
    assert client.get("/v1/searches").json()["items"] == before
    assert client.post("/v1/searches:validate", json=order("awkward_good")).status_code == 200
