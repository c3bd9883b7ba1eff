"""A real service whose processes are killed at random moments, for a minute and a quarter."""

import os
import random
from pathlib import Path

import pytest

from automl_prune.loop.job import SearchState
from services.settings import load_settings
from services.wiring import open_store
from tests.services import chaos

SECONDS = 75.0
ORDER = chaos.ORDER | {"trials": {"max": 60, "parallel": 1}, "finish": {"top_k": 1, "recovery": "none"}}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_dies_when_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    seed = int(os.environ.get("AUTOML_PRUNE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"AUTOML_PRUNE_TEST_SEED={seed}")  # noqa: T201  (pytest shows it when the test fails)
    settings = load_settings(home=tmp_path, workers=1, max_attempts=20)  # recoveries are not waited for
    store, service = open_store(settings), chaos.Service(settings)
    try:
        expected, small = (chaos.undisturbed(service, store, order) for order in (ORDER, chaos.SMALL))
        search_id = service.order(ORDER)
        monkey = chaos.Chaos(service, store, random.Random(seed), every=3.0, patient=False)
        kills = list(monkey.disturb(search_id, SECONDS))
        print(kills)  # noqa: T201
        assert kills
        chaos.check(store, search_id, expected, len(kills))
        monkey.check_accepted(small, len(kills))
        assert {job.state for job in store.list_searches(limit=100)} == {SearchState.SUCCEEDED}
    finally:
        service.stop()
        store.close()
