"""How long a search has been driven, which is what max_seconds limits."""

import time

from automl_prune.loop.job import SearchJob
from automl_prune.loop.run import Stopwatch
from automl_prune.storage.memory import MemoryStore
from automl_prune.testing.store_kit import SCORED, claimed, driven, trial


def test_waiting_and_silence_do_not_count() -> None:
    store = MemoryStore()
    search = driven(store)
    time.sleep(0.5)  # what comes before the first ask is no search yet
    began = time.monotonic()
    record(store, search, 1, 0)
    time.sleep(0.2)
    store.release(search, 1, reason="paused")
    spent = time.monotonic() - began
    time.sleep(0.5)  # in the queue
    began = time.monotonic()
    claimed(store)
    time.sleep(0.2)
    record(store, search, 2, 1)
    spent += time.monotonic() - began
    time.sleep(0.5)  # until its lease has run out
    store.release(search, 2, reason="lost", lost=True)
    job = claimed(store)
    watch = Stopwatch(store, job)
    assert 0.4 <= watch.seconds <= spent + 0.1
    before = watch.seconds
    time.sleep(0.1)
    assert watch.seconds == before, "the arm has not gone on yet"
    began = time.monotonic()
    watch.start()
    time.sleep(0.1)
    watch.start()
    assert before + 0.1 <= watch.seconds <= before + time.monotonic() - began
    assert Stopwatch(store, job, earlier=False).seconds == 0


def test_a_search_that_has_not_asked_has_taken_no_time() -> None:
    store = MemoryStore()
    search = driven(store)
    store.release(search, 1, reason="so")
    job: SearchJob = claimed(store)
    assert Stopwatch(store, job).seconds == 0


def record(store: MemoryStore, search: str, attempt: int, number: int) -> None:
    store.record_ask(search, attempt, trial(number))
    store.record_start(search, attempt, number)
    store.record_outcome(search, attempt, number, SCORED)
