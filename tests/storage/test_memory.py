import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from automl_prune.loop.ports import Store
from automl_prune.storage.memory import MemoryStore
from automl_prune.testing import StoreContract
from automl_prune.testing.store_kit import add, driven, trial


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    """Threads that take turns after almost every step, so that an unguarded one is caught."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_claim_each_search_once() -> None:
    store = MemoryStore()
    ids = [add(store) for _ in range(200)]

    def claim_all(_: int) -> list[str]:
        mine = []
        while (job := store.claim(lease_seconds=60)) is not None:
            mine.append(job.id)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [search for mine in pool.map(claim_all, range(8)) for search in mine]
    assert sorted(taken) == ids


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_share_one_event_sequence() -> None:
    store = MemoryStore()
    search = driven(store)
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda number: store.record_ask(search, 1, trial(number)), range(500)))
    assert sorted(places) == list(range(1, 501))
