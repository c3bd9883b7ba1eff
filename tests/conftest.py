"""What every test shares: few threads, repeatable properties, and the real data where there is some."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported, here and in child processes

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with cifar-10-batches-bin, FashionMNIST/raw and imagenet-dev, or as many of them as there are.

    ``AUTOML_PRUNE_TEST_DATA`` names one; else the packed data beside the repository is unpacked once per user (10 s).
    """
    named = os.environ.get("AUTOML_PRUNE_TEST_DATA")
    if named:
        if not Path(named).is_dir():
            pytest.skip(f"AUTOML_PRUNE_TEST_DATA={named} is no folder")
        return Path(named)
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("no real data: set AUTOML_PRUNE_TEST_DATA to a folder that holds it")
    return _unpacked(Path(tempfile.gettempdir()) / f"automl-prune-test-data-{os.getuid()}")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A folder with published checkpoints: ``weights`` in the test data, or beside the repository."""
    named = os.environ.get("AUTOML_PRUNE_TEST_DATA")
    folders = [*([Path(named) / "weights"] if named else []), SHARED / "weights"]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        pytest.skip("no real weights: neither AUTOML_PRUNE_TEST_DATA nor ../shared/data has a weights folder")
    return found


def _unpacked(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        pytest.skip(f"{folder} belongs to another user")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".complete"
        if not done.exists():
            subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(folder)], check=True, capture_output=True)
            done.touch()
    return folder
