import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError
from ray.util.state import list_jobs
from ray.util.state.exception import RayStateApiException

from automl_prune.errors import WorkersLostError
from automl_prune.execution import Connection, connect
from automl_prune.execution.cluster import cause_of_death, environment, receive_evaluator, short_id
from tests.execution.conftest import ABOUT
from tests.services.waiting import until

ALONE = """
import json, signal
from functools import partial

import ray
from automl_prune.execution import ActorsExecutor
from automl_prune.testing.executor import ScriptedSource, build, score

def keep(number, frame):
    raise SystemExit(number)

signal.signal(signal.SIGTERM, keep)
source = ScriptedSource(3)
ActorsExecutor("srch_0190abcdef", workers=2, dashboard=False).run(source, partial(build, score))
print(json.dumps({
    "completed": len(source.completed),
    "connected": ray.is_initialized(),
    "handler": signal.getsignal(signal.SIGTERM) is keep,
}))
"""


def test_an_executor_alone_starts_a_ray_and_ends_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as folder:  # pytest's own are too long for sockets
        variables = {**os.environ, "TMPDIR": folder, "RAY_ADDRESS": "192.0.2.1:6379"}
        done = subprocess.run(
            [sys.executable, "-c", ALONE], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"completed": 3, "connected": False, "handler": True}
        assert list(Path(folder).iterdir()) == []


def test_a_second_connection_is_refused_and_leaves_the_first_alone(local_ray: Connection) -> None:
    with pytest.raises(RuntimeError, match="already connected"), connect():
        pass
    assert ray.is_initialized()


def test_the_dashboard_listens_on_this_machine_only(local_ray: Connection) -> None:
    assert (local_ray.dashboard or "").startswith("http://127.0.0.1:")


def test_the_dashboard_shows_what_a_process_is_about_on_its_page(local_ray: Connection) -> None:
    """So that one gets from a search to its job, and back."""
    assert local_ray.page == f"{local_ray.dashboard}/#/jobs/{local_ray.job}"
    found: list[Any] = []

    def look() -> bool:
        with suppress(RayStateApiException):  # a dashboard that has just started may not answer yet
            found[:] = [job for job in list_jobs(local_ray.dashboard, detail=True) if job.job_id == local_ray.job]
        return bool(found)

    until(look, 120)
    (job,) = found
    assert dict(job.metadata or {}).items() >= ABOUT.items()


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AP_TEST_KEPT", "before")
    with environment({"AP_TEST_KEPT": "during", "AP_TEST_NEW": "during"}):
        assert (os.environ["AP_TEST_KEPT"], os.environ["AP_TEST_NEW"]) == ("during", "during")
    assert os.environ["AP_TEST_KEPT"] == "before"
    assert "AP_TEST_NEW" not in os.environ


def test_searches_are_told_apart_by_the_end_of_their_ids() -> None:
    assert short_id("srch_0190a2b3c4d5e6f7") == "c4d5e6f7"


def test_the_cause_of_a_death_is_told_without_ids_and_advice() -> None:
    report = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: PruneWorker\n\tpid: 12\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits. If the process was killed by the kernel OOM killer, buy memory."
    )
    assert cause_of_death(report) == "Worker unexpectedly exits."


def test_a_death_without_an_exit_code_may_have_been_for_want_of_memory() -> None:
    report = "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes"
    assert cause_of_death(report).startswith("it was killed (exit 137, out of memory?)")


def test_what_was_lost_with_a_machine_is_no_fault_of_the_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")

    def get(reference: object) -> None:  # takes the death of another machine
        raise ObjectLostError("00" * 28, None, "")

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(WorkersLostError, match="what was sent to a worker was lost"):
        receive_evaluator(Any, 1, 0)  # type: ignore[arg-type]
