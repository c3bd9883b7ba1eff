"""What ``searches:validate`` says about time, and when it says that nobody knows."""

from typing import Any

from fastapi.testclient import TestClient

from automl_prune.storage.sql import SqlStore
from tests.services.conftest import Fill, Order


def test_the_time_is_estimated_from_earlier_evaluations_alone(
    client: TestClient, store: SqlStore, fill: Fill, order: Order
) -> None:
    def time(**changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = client.post("/v1/searches:validate", json=order(**changes)).json()["time"]
        assert (found["reason"] is None) == (found["seconds"] is not None) == (found["basis"] is not None)
        return found

    assert "None of your last 50 searches by 'random'" in time()["reason"]
    job_id = fill(store)  # evaluates in 1.5 s
    known = time(execution="inline")
    assert (known["seconds"], known["seconds_per_evaluation"], known["at_once"]) == (17 * 1.5, 1.5, 1)
    assert known["basis"].startswith(f"the median of 7 evaluations of {job_id}")
    limited = {"trials": {"max": 8, "max_seconds": 2}, "execution": "inline"}
    assert time(**limited)["seconds"] == 2 + 9 * 1.5
    for other in (
        {"dataset": {"name": "digits", "select_size": 101}},
        {"recipe": {"recalibrate_batches": 1}},
        {"resources": {"cpu": 0.5}},
        {"strategy": {"name": "uniform"}},
    ):
        assert time(**other)["seconds"] is None, other
