"""One search from plan to result: wires the controller to an executor and writes the files."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.setup import EvaluationSetup
from automl_prune.loop.arms import CONFIRM, FINAL, PREPARATION, REPORT, History, plan_arms
from automl_prune.loop.budgets import budget_json
from automl_prune.loop.controller import Controller
from automl_prune.loop.family import FamilyKeeper, family_json
from automl_prune.loop.job import Artifact, SearchAttempt, SearchJob, SearchState, StoredTrial
from automl_prune.loop.plan import Plan, evaluations
from automl_prune.loop.ports import Executor, Store
from automl_prune.loop.result import build_result, executor_cost
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.messages import is_storage_full, said
from automl_prune.trial import Evaluator, Outcome, Trial, TrialState

MODEL_FILE, ARCHITECTURE_FILE = "model.safetensors", "architecture.json"


def run_search(
    plan: Plan,
    job: SearchJob,
    store: Store,
    executor: Executor,
    artifacts: Path,
    *,
    cancel: threading.Event | None = None,
    pause: threading.Event | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    make_evaluator: Callable[[EvaluationSetup], Evaluator] = CandidateEvaluator,
) -> SearchJob:
    """Drive a claimed search to its end, from wherever its trials say it is.

    Args:
        plan: The checked order.
        job: The claimed search.
        store: Where everything is recorded.
        executor: What evaluates trials.
        artifacts: The search's own folder.
        cancel: Ends the search as cancelled once it is set.
        pause: Gives the search back after the trials in flight once it is set.
        on_trial: Called with every trial that ends.
        make_evaluator: What scores candidates; called once per worker, in the worker.

    Raises:
        EvaluationError: Nothing could be evaluated; the caller records the failure.
        LeaseLostError: Another driver took over.
        OSError: The files could not be written; where there was no room for them, the search is paused instead.
    """
    limit = plan.spec.trials.max_seconds
    searching = Stopwatch(store, job, earlier=limit is not None)
    artifacts.mkdir(parents=True, exist_ok=True)
    keeper = FamilyKeeper(store, job, artifacts)
    stage = _Stage(store, job, plan, executor)

    def enter(arm: str) -> None:
        if arm == SEARCH:
            searching.start()
        stage.enter(arm)

    def keep_family() -> None:
        if controller.strategy:
            keeper.follow(controller.strategy, controller.history)

    def told(trial: Trial) -> None:
        if trial.arm == SEARCH:
            keep_family()
        on_trial(trial)

    controller = Controller(
        store,
        job.id,
        job.attempt,
        plan.problem,
        plan_arms(
            plan.problem,
            plan.make_strategy,
            max_trials=plan.spec.trials.max,
            controls=plan.spec.controls,
            top_k=plan.spec.finish.top_k,
            train_base=plan.weights is None,
            prepare=plan.preparations,
            rounds=plan.rounds,
            seed=plan.spec.seed,
            latencies=plan.latencies,
        ),
        on_start=stage.start,
        on_arm=enter,
        on_trial=told,
        on_standstill=stage.stand_still,
        out_of_time=lambda: limit is not None and searching.seconds > limit,
        patience=plan.spec.trials.patience,
        **_judging(plan, store, job),
    )
    with _obeying(controller, cancel=cancel, pause=pause):
        executor.run(controller, partial(make_evaluator, plan.setup(artifacts)))
    controller.raise_failure()
    keep_family()  # once more: a driver that died may have recorded the last trial, and deleted nothing after it
    if controller.no_room is not None and not controller.stopping:
        return store.release(job.id, job.attempt, reason=no_room(controller.no_room), hold=True)
    if controller.paused:
        return store.release(job.id, job.attempt, reason="queued again: it was resumed before it was paused")
    if controller.stopping:
        store.set_state(job.id, job.attempt, SearchState.CANCELLED, reason="cancelled by request")
    else:
        spent = executor_cost(store.trials(job.id), executor.describe())
        result = build_result(plan, job.id, controller.history, seconds=_since(job.started_at), executor=spent)
        if controller.strategy and controller.strategy.family:
            result["family"] = family_json(plan.problem.space, controller.strategy.family, controller.history)
        try:
            _publish(store, job, result, controller.history, artifacts)
        except OSError as error:
            if not is_storage_full(error):
                raise
            return store.release(job.id, job.attempt, reason=no_room(said(error)), hold=True)
    return store.get_search(job.id)


def _judging(plan: Plan, store: Store, job: SearchJob) -> dict[str, Any]:
    """What a controller asks of the devices that budget a search; while it waits for one, the search says so."""
    if (latencies := plan.latencies) is None:
        return {}

    def foresee(trial: Trial) -> Outcome | None:
        if not (devices := latencies.awaited(trial)):
            return foreseen(trial)
        state, reason = _STAGES[trial.arm]
        store.set_state(job.id, job.attempt, state, reason=f"waiting for device {_named(devices)} to time {trial.name}")
        outcome = foreseen(trial)
        store.set_state(job.id, job.attempt, state, reason=reason)
        return outcome

    def foreseen(trial: Trial) -> Outcome | None:
        outcome = latencies.foresee(trial)
        return with_costs(trial, outcome) if outcome and outcome.metrics else outcome

    def judge(trial: Trial, outcome: Outcome) -> Outcome:
        judged = latencies.judge(trial, outcome)
        return with_costs(trial, judged) if judged.state is TrialState.STOPPED else judged

    def with_costs(trial: Trial, outcome: Outcome) -> Outcome:
        """What a trial without a score has of metrics: latencies are shown against the other costs."""
        return replace(outcome, metrics={**plan.problem.costs(trial.candidate), **outcome.metrics})

    return {"foresee": foresee, "judge": judge}


def _named(devices: Iterable[str]) -> str:
    return " and ".join(map(repr, devices))


def no_room(how: str) -> str:
    """Why a search is paused whose files had no room."""
    return f"paused: no room for its files ({how.rstrip('.')}); make some, then resume"


class Stopwatch:
    """Seconds for which the search arm has been driven, by whichever driver; 0 before it first asked.

    What passed while the search waited, was paused or had lost its driver is left out. Earlier drivers are measured by the
    clock of the store, this one by its own: the two are never compared.

    Args:
        store, job: The claimed search.
        earlier: Whether earlier drivers matter.
    """

    def __init__(self, store: Store, job: SearchJob, *, earlier: bool = True) -> None:
        before = [a for a in store.attempts(job.id) if a.number < job.attempt] if earlier and job.attempt > 1 else []
        trials = store.trials(job.id, arm=SEARCH) if before else []
        self._earlier = sum(_driven(attempt, trials) for attempt in before)
        self._started: float | None = None

    def start(self) -> None:
        """The arm begins, or goes on."""
        self._started = time.monotonic() if self._started is None else self._started

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._earlier + (0.0 if self._started is None else time.monotonic() - self._started)


def _driven(attempt: SearchAttempt, trials: Sequence[StoredTrial]) -> float:
    """Seconds from the first ask of the search arm in an attempt, or from its start where that came before, to its end.

    Of a lost one nobody knows when it ended: it counts until it was last heard of.
    """
    if not trials or attempt.ended_at is None:
        return 0.0
    since = max(attempt.started_at, trials[0].asked_at)
    until = attempt.ended_at
    if attempt.lost:
        moments = (moment for t in trials for moment in (t.asked_at, t.started_at, t.ended_at) if moment is not None)
        until = max((moment for moment in moments if moment <= attempt.ended_at), default=since)
    return max(0.0, (until - since).total_seconds())


def _since(moment: datetime | None) -> float:
    return 0.0 if moment is None else (datetime.now(UTC) - moment).total_seconds()


@contextmanager
def _obeying(controller: Controller, *, cancel: threading.Event | None, pause: threading.Event | None) -> Iterator[None]:
    """Cancel or pause the controller soon after an event is set."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if pause is not None and pause.is_set():
                controller.pause()
            if cancel is not None and cancel.is_set():
                controller.cancel()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_STAGES: Mapping[str, tuple[SearchState, str]] = {
    PREPARATION: (SearchState.PREPARING, "training what the search needs"),
    BASE: (SearchState.PREPARING, "scoring the full network"),
    SEARCH: (SearchState.RUNNING, "evaluating candidates"),
    "uniform": (SearchState.RUNNING, "evaluating the uniform control"),
    "random": (SearchState.RUNNING, "evaluating the random control"),
    "global": (SearchState.RUNNING, "evaluating the global control"),
    FINAL: (SearchState.FINISHING, "recovering the best candidates"),
    REPORT: (SearchState.FINISHING, "scoring the report split"),
}


class _Stage:
    """Where the search is, told each time an arm starts, and while nothing can be evaluated."""

    def __init__(self, store: Store, job: SearchJob, plan: Plan, executor: Executor) -> None:
        self._store, self._job, self._plan, self._executor = store, job, plan, executor
        self._state, self._reason = SearchState.PREPARING, ""

    def start(self, arm: str) -> None:
        """Say so where leaders are timed to choose what an arm evaluates."""
        if self._plan.latencies and (arm == FINAL or arm.startswith(CONFIRM)):
            named = _named(self._plan.latencies.gauges)
            self._state, self._reason = SearchState.FINISHING, f"timing the leaders on device {named}"
            self._tell(self._reason)

    def enter(self, arm: str) -> None:
        self._state, self._reason = _STAGES.get(arm, (SearchState.FINISHING, "confirming the leaders on more images"))
        self._tell(self._reason, info=describe(self._plan, self._executor))

    def stand_still(self, reason: str | None) -> None:
        self._tell(reason or self._reason)

    def _tell(self, reason: str, *, info: Mapping[str, Any] | None = None) -> None:
        self._store.set_state(self._job.id, self._job.attempt, self._state, reason=reason, info=info)


def describe(plan: Plan, executor: Executor) -> dict[str, Any]:
    """What clients may want to know before there is a result (JSON)."""
    space = plan.problem.space
    described = dict(executor.describe())
    return {
        "base": plan.base_costs,
        "space": {"names": list(space.names), "full": list(space.full.widths), "log10_size": space.log10_size},
        "budgets": [budget_json(b) for b in plan.ordered],
        **({"latency": plan.latencies.describe()} if plan.latencies else {}),
        "splits": plan.images.describe(),
        "evaluations": evaluations(plan.spec),
        "executor": described,
        "links": {"ray_dashboard": described.get("dashboard")},
    }


def _publish(store: Store, job: SearchJob, result: dict[str, Any], history: History, artifacts: Path) -> None:
    """Write the files, record them, and end the search; no result is visible before all of it is there."""
    report = next(t for t in history if t.arm == REPORT and t.origin["arm"] == SEARCH)
    shutil.copyfile(artifacts / f"trial-{int(report.origin['final']):04d}.safetensors", artifacts / MODEL_FILE)
    model = Artifact.of(artifacts / MODEL_FILE)
    result["artifacts"] = [{"name": model.name, "sha256": model.sha256, "size": model.size}]
    (artifacts / ARCHITECTURE_FILE).write_text(json.dumps(result, indent=1, allow_nan=False))
    for artifact in (model, Artifact.of(artifacts / ARCHITECTURE_FILE)):
        store.add_artifact(job.id, job.attempt, artifact)
    store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, reason="finished", result=result)
