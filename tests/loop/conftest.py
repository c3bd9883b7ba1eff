from collections.abc import Iterator
from multiprocessing import forkserver

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_fork_server_left() -> Iterator[None]:
    """What drivers are forked from holds as much memory as a driver, and other modules need none."""
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
