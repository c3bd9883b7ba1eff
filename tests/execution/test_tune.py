import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from ray.util.state import list_actors

from automl_prune.errors import EvaluationError, WorkersLostError
from automl_prune.execution import Connection, TuneExecutor
from automl_prune.execution.tune import _Talk
from automl_prune.testing.executor import ExecutorContract, ScriptedSource, build
from automl_prune.trial import Outcome, Trial, TrialState

SEARCH = "srch_0190abcdef12"


class TestTuneExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, local_ray: Connection) -> TuneExecutor:
        return TuneExecutor(SEARCH, workers=2)


@pytest.mark.parametrize(("lost", "error", "cancelled"), [(True, WorkersLostError, 0), (False, EvaluationError, 1)])
def test_what_was_lost_with_a_machine_leaves_its_trial_open(lost: bool, error: type[Exception], cancelled: int) -> None:
    source = ScriptedSource(1)
    talk = _Talk(source, 3, {})
    talk.ask("first")
    talk.tell("first", {"worker": "w", "broken": "no evaluator", "lost": lost})
    with pytest.raises(error, match="no evaluator"):
        talk.end()
    assert len(source.completed) == cancelled


def test_workers_have_their_names_and_resources_and_leave_nothing(
    local_ray: Connection, ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source, executor = ScriptedSource(3), TuneExecutor(SEARCH, workers=1, cpu=2, gpu=0.5)
    executor.run(source, partial(build, report_environment))
    assert source.completed[2][1].details == {"threads": "2", "gpus": "0", "folder": os.getcwd()}

    described = executor.describe()
    assert (described["kind"], described["workers"], described["dashboard"]) == ("tune", 1, local_ray.page)
    assert len(described["actors"]) == 1, "the actor is reused"
    actors = list_actors(local_ray.dashboard, filters=[("class_name", "=", "PruneTrial")], detail=True, limit=1000)
    worker = next(actor for actor in actors if actor.repr_name == described["actors"][0])
    assert worker.repr_name == f"PruneTrial[search-abcdef12-w{worker.pid}]"
    logs = "".join(path.read_text() for path in ray_folder.glob(f"session_2*/logs/worker-*-{worker.pid}.err"))
    assert "trial-0002, attempt 1" in logs

    assert list(tmp_path.iterdir()) == []
    assert list(ray_folder.glob("session_2*/artifacts/*/*")) == []


def report_environment(trial: Trial) -> Outcome:
    names = {"threads": "OMP_NUM_THREADS", "gpus": "CUDA_VISIBLE_DEVICES"}
    details = {name: os.environ[variable] for name, variable in names.items()}
    return Outcome(TrialState.COMPLETE, details={**details, "folder": os.getcwd()})
