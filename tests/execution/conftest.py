import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private import worker as ray_worker

from automl_prune.execution import Connection, connect

ABOUT = {"search_id": "srch_tests", "page": "http://127.0.0.1:8422/searches/srch_tests"}


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Where the shared Ray keeps its logs; pytest's own folders are too long for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def local_ray(ray_folder: Path) -> Iterator[Connection]:
    """One Ray for all tests of executors, because starting one takes seconds; its GPU is one in name only."""
    with connect(num_cpus=2, num_gpus=1, temp_dir=ray_folder, namespace="tests", metadata=ABOUT) as connection:
        node: Any = ray_worker._global_node
        started = [info.process for infos in node.all_processes.values() for info in infos]
        yield connection
    for process in started:  # Ray gives each a second to end, and Python warns of one that is forgotten before it did
        process.wait(60)
