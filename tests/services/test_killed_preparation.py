"""A driver that is killed while it prepares: the next one goes on with the epoch that comes next."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl_prune.evaluation.hypernetwork_files import read_about
from automl_prune.evaluation.setup import HYPERNETWORK, PREPARES
from automl_prune.loop.job import SearchState
from services.settings import Settings, environment, load_settings
from services.wiring import open_store
from tests.services.waiting import until

EPOCHS = 12
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "metapruning", "options": {"population": 4}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2, "hypernetwork": {"epochs": EPOCHS, "least_ratio": 0}},
    "base_training": {"epochs": 1},
    "trials": {"max": 4},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, lease_seconds=3, workers=1)


@pytest.fixture
def launcher(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    open_store(settings)
    process = subprocess.Popen([sys.executable, "-m", "services.launcher"], env=os.environ | environment(settings))
    yield process
    process.terminate()
    assert process.wait(30) == 0


def drivers(search_id: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"services.driver" in arguments and search_id.encode() in arguments:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_killed_preparation_is_continued(settings: Settings, launcher: subprocess.Popen[bytes]) -> None:
    store = open_store(settings)
    job = store.add_search(ORDER, name=None, labels={})
    until(lambda: any(read_about(f).done >= 3 for f in settings.cache_dir.glob("pruning-net-*.draft.safetensors")))
    for pid in drivers(job.id):
        os.kill(pid, signal.SIGKILL)
    until(lambda: store.get_search(job.id).state.is_terminal)
    ended = store.get_search(job.id)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert ended.attempt == 2
    trials = [stored.trial for stored in store.trials(job.id, arm="preparation")]
    trial = next(t for t in trials if t.origin[PREPARES] == HYPERNETWORK)
    assert trial.outcome is not None
    assert trial.outcome.details["epochs"] == EPOCHS
    assert 0 < trial.outcome.details["epochs_now"] <= EPOCHS - 3
    assert trial.outcome.metrics["train_top1"] > 0
