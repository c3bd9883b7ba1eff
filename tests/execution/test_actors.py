import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util
from ray.util.state import list_actors, list_tasks
from ray.util.state.exception import RayStateApiException

from automl_prune.errors import EvaluationError, NotReadyError, UserError, WorkersLostError
from automl_prune.execution import ActorsExecutor, Connection
from automl_prune.testing.executor import Die, ExecutorContract, ScriptedSource, build, score
from automl_prune.trial import Evaluator, Outcome, Trial, TrialState
from tests.services.waiting import until

SEARCH = "srch_0190abcdef12"


class TestActorsExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, local_ray: Connection) -> ActorsExecutor:
        return ActorsExecutor(SEARCH, workers=2)


def test_workers_and_trials_go_by_their_names_in_the_dashboard(local_ray: Connection, ray_folder: Path) -> None:
    executor = ActorsExecutor("srch_0190dashboard", workers=1)
    for _ in range(2):
        executor.run(ScriptedSource(2), partial(build, score))
    names = ["search-ashboard-w0", "search-ashboard-w1"]
    assert executor.describe() == {"kind": "actors", "workers": 1, "dashboard": local_ray.page, "actors": names}

    assert _patiently(lambda: _states(local_ray, names), {"DEAD"}) == {"DEAD"}, "no worker outlives its run"
    worker = list_actors(local_ray.dashboard, filters=[("name", "=", names[1])])[0]
    tasks = {"PruneWorker.arrive", "PruneWorker.build", "trial-0000", "trial-0001"}
    assert _patiently(lambda: _tasks(local_ray, worker.actor_id), tasks) == tasks
    logs = "".join(path.read_text() for path in ray_folder.glob(f"session_2*/logs/worker-*-{worker.pid}.err"))
    assert "trial-0001, attempt 1" in logs


def test_a_worker_has_the_threads_and_the_gpu_it_was_given(local_ray: Connection) -> None:
    source = ScriptedSource(1)
    ActorsExecutor(SEARCH, workers=1, cpu=2, gpu=0.5).run(source, make_environment_report)
    outcome = source.completed[0][1]
    assert (outcome.metrics["threads"], outcome.details["gpus"]) == (2, "0")


def test_a_worker_without_a_gpu_sees_none(local_ray: Connection) -> None:
    source = ScriptedSource(1)
    ActorsExecutor(SEARCH, workers=1).run(source, partial(build, report_gpus))
    assert source.completed[0][1].details["gpus"] == ""


def test_more_than_any_machine_has_is_refused_at_once(local_ray: Connection) -> None:
    with pytest.raises(EvaluationError, match=r"needs 64 CPU and 0 GPU .* have 2 CPU and 1 GPU"):
        ActorsExecutor(SEARCH, cpu=64).run(ScriptedSource(1), partial(build, score))


def test_a_machine_that_is_large_enough_is_waited_for_a_while(local_ray: Connection) -> None:
    source = ScriptedSource(1)
    with pytest.raises(NotReadyError, match=r"needs 64 CPU and 0 GPU .* for 1\.5 seconds .* had 2 CPU and 1 GPU") as caught:
        ActorsExecutor(SEARCH, cpu=64, patience=1.5).run(source, partial(build, score))
    assert caught.value.aside, "others find room here"
    (said,) = source.standstills
    assert (said or "").startswith("waiting for a machine: a worker needs 64 CPU")
    assert source.handed_out == 0
    demands = [group["state"] for group in ray.util.placement_group_table().values()]
    assert set(demands) <= {"REMOVED"}, "nothing is left of the demand"


def test_a_search_may_be_stopped_while_it_waits_for_a_machine(local_ray: Connection) -> None:
    late = time.monotonic() + 1
    source = ScriptedSource(1, stop=lambda: time.monotonic() > late)
    ActorsExecutor(SEARCH, cpu=64, patience=600).run(source, partial(build, score))
    assert source.completed == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_machine_that_joins_is_used(local_ray: Connection, ray_folder: Path) -> None:
    joined: list[subprocess.Popen[bytes]] = []

    def join() -> None:
        where = ["--address", local_ray.address, "--num-cpus", "4", "--temp-dir", f"{ray_folder}-2"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where]
        joined.append(subprocess.Popen(command))

    source = Relieved(join)
    try:
        ActorsExecutor(SEARCH, workers=1, cpu=4, patience=120).run(source, partial(build, score))
    finally:
        for node in joined:
            node.terminate()
            node.wait(60)
        shutil.rmtree(f"{ray_folder}-2", ignore_errors=True)
    assert len(source.completed) == source.count
    assert source.standstills[0] is not None
    assert source.standstills[-1] is None


@pytest.mark.timeout(300)
def test_workers_that_there_is_no_room_for_keep_no_trial_to_themselves(local_ray: Connection) -> None:
    source = ScriptedSource(5)
    ActorsExecutor(SEARCH, workers=3).run(source, partial(build, score))
    assert sorted(trial.number for trial, _ in source.completed) == list(range(5)), "Ray here has two processors"


@pytest.fixture
def occupy(local_ray: Connection) -> Iterator[Callable[[int], Any]]:
    """Has somebody else's actor keep so many processors, until it is killed or the test ends."""
    others: list[Any] = []

    def begin(processors: int) -> Any:
        others.append(ray.remote(Other).options(num_cpus=processors).remote())
        ray.get(others[-1].hold.remote())
        return others[-1]

    yield begin
    for other in others:
        ray.kill(other)


@pytest.mark.timeout(300)
def test_waiting_for_a_place_is_told_until_the_first_trial_starts(
    occupy: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automl_prune.execution.actors.STANDSTILL_SECONDS", 0.5)
    other = occupy(2)
    until(lambda: not ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]  # Ray counts now and then
    source = Relieved(lambda: ray.kill(other))
    ActorsExecutor(SEARCH, workers=2).run(source, partial(build, score))
    reasons = list(dict.fromkeys(source.standstills))  # told again while a busy machine is slow to make room
    assert reasons == ["waiting for a worker: 1 CPU asked, 0 of 2 CPU free in the cluster", None]
    assert source.standstills.count(None) == 1
    assert len(source.completed) == source.count


@pytest.mark.timeout(300)
def test_a_worker_without_a_place_is_not_told_while_another_works(
    occupy: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automl_prune.execution.actors.STANDSTILL_SECONDS", 1.0)
    occupy(1)
    source = ScriptedSource(150)
    ActorsExecutor(SEARCH, workers=2).run(source, partial(build, score_slowly))
    told = [reason is not None for reason in source.standstills]
    assert told in ([], [True, False]), "only before the first trial, where Ray takes that long"
    assert len(source.completed) == source.count


def test_one_and_a_half_gpus_are_refused(local_ray: Connection) -> None:
    with pytest.raises(UserError, match=r"not 1\.5") as caught:
        ActorsExecutor(SEARCH, gpu=1.5).run(ScriptedSource(1), partial(build, score))
    assert caught.value.pointer == "/resources/gpu"


def test_a_factory_that_workers_cannot_read_ends_the_run(local_ray: Connection) -> None:
    with pytest.raises(EvaluationError, match=r"could not be sent to a worker: .*only where it was made"):
        ActorsExecutor(SEARCH).run(ScriptedSource(5), Homebody())


def test_a_trial_that_kills_too_many_workers_fails(local_ray: Connection) -> None:
    source = ScriptedSource(2)
    ActorsExecutor(SEARCH, workers=1, max_attempts=2).run(source, partial(build, Die(until_attempt=99)))
    trial, outcome = source.completed[1]
    assert (trial.number, trial.attempt, outcome.state) == (1, 2, TrialState.FAILED)
    assert (outcome.reason or "").startswith("2 attempts, last worker died: it was killed (exit 137, out of memory?)")


def test_a_trial_that_workers_cannot_read_fails_and_the_next_one_does_not(local_ray: Connection) -> None:
    source = Untidy(2)
    ActorsExecutor(SEARCH, workers=1).run(source, partial(build, report_gpus))
    unread, read = (outcome for _, outcome in source.completed)
    assert unread.state is TrialState.FAILED
    assert "only where it was made" in (unread.reason or "")
    assert read.state is TrialState.COMPLETE


def test_workers_that_die_while_building_end_the_attempt_and_not_the_search(local_ray: Connection) -> None:
    with pytest.raises(WorkersLostError, match="2 workers in a row died while building the evaluator"):
        ActorsExecutor(SEARCH, workers=1, max_attempts=2).run(ScriptedSource(5), partial(os._exit, 1))


def make_environment_report() -> Evaluator:
    import torch

    def report(trial: Trial) -> Outcome:
        return replace(report_gpus(trial), metrics={"threads": torch.get_num_threads()})

    return report


def report_gpus(trial: Trial) -> Outcome:
    return Outcome(TrialState.COMPLETE, details={"gpus": os.environ["CUDA_VISIBLE_DEVICES"]})


def score_slowly(trial: Trial) -> Outcome:
    """In less than the moment that an executor waits for an end, so that it never looks while a trial is evaluated."""
    time.sleep(0.02)
    return score(trial)


class Homebody:
    """A factory that arrives nowhere else."""

    def __reduce__(self) -> tuple[object, ...]:
        return _arrive, (os.getpid(),)

    def __call__(self) -> Evaluator:
        return score


class Other:
    """Somebody else's work."""

    def hold(self) -> None:
        """It has its place."""


class Relieved(ScriptedSource):
    """Makes room once it hears that there is none."""

    def __init__(self, make_room: Callable[[], None]) -> None:
        super().__init__(2)
        self._make_room = make_room

    def stand_still(self, reason: str | None) -> None:
        super().stand_still(reason)
        if reason:
            self._make_room()


class Untidy(ScriptedSource):
    """Its first trial carries something that only this process knows."""

    def next(self) -> Trial | None:
        trial = super().next()
        return replace(trial, origin={"made": Homebody()}) if trial and trial.number == 0 else trial


def _arrive(home: int) -> Homebody:
    if os.getpid() != home:
        raise ImportError("there is a module only where it was made")
    return Homebody()


def _patiently(look: Callable[[], set[str]], expected: set[str]) -> set[str]:
    """What there is to see, given the seconds that Ray takes to show it."""
    give_up, seen = time.monotonic() + 90, set[str]()
    while seen != expected and time.monotonic() < give_up:
        with suppress(RayStateApiException):  # the dashboard answers when it has the time
            seen = look()
        time.sleep(0.2)
    return seen


def _tasks(connection: Connection, actor_id: str) -> set[str]:
    found = list_tasks(connection.dashboard, filters=[("actor_id", "=", actor_id), ("type", "=", "ACTOR_TASK")])
    return {task.name for task in found}


def _states(connection: Connection, names: list[str]) -> set[str]:
    found = list_actors(connection.dashboard, limit=1000)
    return {actor.state for actor in found if actor.name in names}
