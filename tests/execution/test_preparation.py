"""What a preparation leaves behind is found by every worker, whichever made it."""

from pathlib import Path
from typing import Any

import pytest

from automl_prune.execution import ActorsExecutor, Connection, TuneExecutor
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "metapruning", "options": {"population": 4}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2, "hypernetwork": {"epochs": 2, "least_ratio": 0}},
    "base_training": {"epochs": 1},
    "trials": {"max": 6, "parallel": 2},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "recovery": "none"},
}


@pytest.mark.parametrize("kind", [ActorsExecutor, TuneExecutor])
def test_a_search_on_made_weights(
    local_ray: Connection, tmp_path: Path, kind: type[ActorsExecutor] | type[TuneExecutor]
) -> None:
    plan = make_plan(SearchSpec.parse(ORDER), Roots(tmp_path / "data", tmp_path / "weights", tmp_path / "cache"))
    store = MemoryStore()
    store.add_search(ORDER, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = run_search(plan, job, store, kind(job.id, workers=2), tmp_path / "artifacts")
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    trials = [stored.trial for stored in store.trials(job.id)]
    assert [t.arm for t in trials].count("preparation") == 2
    assert sum(t.arm == "search" for t in trials) == 6
    assert (tmp_path / "artifacts" / "hypernetwork.safetensors").is_file()
