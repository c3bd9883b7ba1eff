"""The demo as a user runs it: a process of its own that starts the service, searches, and leaves nothing running."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.images import load_images
from automl_prune.evaluation.recipe import DatasetSpec
from automl_prune.evaluation.scoring import score
from automl_prune.export import load_architecture
from automl_prune.networks import NETWORKS
from services.settings import PREFIX

pytestmark = pytest.mark.timeout(600)


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.cli", "demo", "--home", str(home), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that runs the tests in the background lets its children ignore Ctrl-C; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def still_running(home: Path) -> list[str]:
    """Processes that were told to work in this folder: the service, the launcher, drivers, all of Ray."""
    mark = f"{PREFIX}HOME={home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it ended just now, or is not ours
    return found


def wait_until_nothing_runs(home: Path) -> list[str]:
    deadline = time.monotonic() + 180
    while (left := still_running(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_the_demo_finds_a_network_that_scores_as_it_says(tmp_path: Path) -> None:
    with start(tmp_path, "--trials", "6") as process:
        output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert still_running(tmp_path) == []

    result = json.loads((tmp_path / "best.json").read_text())
    assert result["metrics"]["macs"] <= 0.5 * result["base_metrics"]["macs"]
    definition = NETWORKS.get("digits_resnet")
    images = load_images(
        DATASETS.get("digits"),
        DatasetSpec(name="digits", select_size=400, batch_size=64),
        tmp_path,
        network=definition,
        seed=0,
    )
    assert images.describe()["report"] == result["splits"]["report"]
    scored = score(load_architecture(tmp_path / "best.json"), images.report())
    assert scored["top1"] == pytest.approx(result["metrics"]["top1"], abs=1e-9)
    assert scored["top1"] > 0.9

    for expected in (
        r"^running: evaluating candidates, \d+ of 13 candidates",
        r"^layer1\.0\.conv1 +\d+/16 +█+",
        r"^full network +[\d.]+ % +– +[\d.]+ % +747 k +100\.0 %",
        rf"^best of the search +.* {100 * scored['top1']:.2f} % ",
        r"^control: uniform ",
        r"^control: random ",
        rf"^JSON: +{re.escape(str(tmp_path))}/best\.json$",
        rf"^weights: +{re.escape(str(tmp_path))}/model\.safetensors$",
        rf"^page: .*/searches/{result['search_id']} ",
    ):
        assert re.search(expected, output, re.MULTILINE), (expected, output)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_nothing_outlives_a_demo_that_is_stopped(tmp_path: Path, number: int) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("queued", "preparing", "running")):  # the first may have passed before it is looked at
                break
        assert still_running(tmp_path) != []
        os.kill(process.pid, number)
        assert process.wait(120) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert wait_until_nothing_runs(tmp_path) == []


def test_an_order_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for arguments, says in (
        (("--dataset", "cifar10"), "Name the network to search on 'cifar10' with --space"),
        (("--weights", str(tmp_path / "none.pth")), "There is no weight file"),
    ):
        with start(tmp_path, *arguments) as process:
            output = process.communicate(timeout=240)[0]
        assert (process.returncode, says in output) == (2, True), output
