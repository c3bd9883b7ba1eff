"""A real small search under a latency budget, in the JSON that the service tells it in."""

import json
from pathlib import Path
from typing import Any

import pytest

from automl_prune.execution.inline import InlineExecutor
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.loop.run import run_search
from automl_prune.report.told import Told
from automl_prune.storage.memory import MemoryStore
from services.api import views
from services.api.standings import Standings
from tests.latency.clockwork import Clockwork
from tests.loop.test_latencies import ORDER, plan_of


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder, store = tmp_path_factory.mktemp("told"), MemoryStore()
    clock = Clockwork("pi4", TracedNetwork.registered("digits_resnet", 10))
    budgets = [{"metric": "latency_ms", "max_ratio": 0.6, "device": "pi4"}]
    plan = plan_of(ORDER | {"budgets": budgets}, folder / "search", clock)
    store.add_search(plan.spec.model_dump(mode="json"), name="a <b>search</b> | of digits", labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = run_search(plan, job, store, InlineExecutor(), Path(folder / "artifacts"))
    found = views.search(ended, store.progress(job.id), Standings(store).best_by_arm(ended), base_url=None)
    trials: list[Any] = [views.trial(one, ended) for one in store.trials(job.id)]
    search, listed, result = json.loads(json.dumps([found, trials, ended.result]))
    return Told(search, listed, result)
