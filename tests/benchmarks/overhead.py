"""Overhead of a trial: wall time of a search minus time inside evaluations, per trial, by executor.

    python tests/benchmarks/overhead.py [TRIALS]

The evaluator sleeps, so that two workers on two cores do not slow each other down; the store is SQLite on disk. Ray's start
is not counted, the start of its workers is. ``steady`` leaves out the first quarter of the trials.
"""

import functools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.execution import ActorsExecutor, InlineExecutor, TuneExecutor, connect
from automl_prune.loop.arms import plan_arms
from automl_prune.loop.controller import Controller
from automl_prune.loop.ports import Executor
from automl_prune.storage.sql import SqlStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.testing.strategy import toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState
from tests.benchmarks.common import header

WORKERS = 2
PROBLEM = toy_problem()


class Sleeper:
    """Takes a tenth of a second per trial."""

    def __call__(self, trial: Trial) -> Outcome:
        started = time.perf_counter()
        time.sleep(0.1)
        score = toy_score(toy_problem(), trial.candidate)
        details: dict[str, object] = {"before": {}} if trial.arm in ("final", "report") else {}
        return Outcome(TrialState.COMPLETE, {"top1": score}, {"seconds": time.perf_counter() - started}, details=details)


def run(executor: Executor, trials: int, workers: int, folder: Path) -> None:
    """Print one executor's overhead."""
    store = SqlStore.open(f"sqlite:///{folder / 'bench.sqlite3'}", upgrade=True)
    store.add_search({"strategy": {"name": "abc"}}, name=None, labels={})
    job = store.claim(lease_seconds=3600)
    assert job is not None
    make = functools.partial(STRATEGIES.get("random").create, PROBLEM)
    arms = plan_arms(PROBLEM, make, max_trials=trials, controls=(), top_k=1, train_base=False, seed=0)
    controller = Controller(store, job.id, job.attempt, PROBLEM, arms)
    started = time.perf_counter()
    executor.run(controller, Sleeper)
    wall = time.perf_counter() - started
    inside = sum(t.outcome.cost["seconds"] for t in controller.history if t.outcome)
    count = len(controller.history)
    ends = sorted(t.ended_at for t in store.trials(job.id) if t.ended_at)
    first = count // 4
    steady = (ends[-1] - ends[first]).total_seconds() / (count - 1 - first) - inside / count / workers
    overhead = (wall - inside / workers) / count
    kind = executor.describe()["kind"]
    print(f"{kind:8} {workers:7} {count:6} {wall:8.2f} {inside / workers:12.2f} {1e3 * overhead:14.1f} {1e3 * steady:14.1f}")


def main(trials: int) -> None:
    """Print a row per executor."""
    header("overhead of a trial, ms of wall time")
    print(
        f"{'executor':8} {'workers':>7} {'trials':>6} {'wall, s':>8} {'evaluating':>12} {'all, ms/trial':>14} {'steady':>14}"
    )
    with tempfile.TemporaryDirectory() as folder, connect(None, num_cpus=WORKERS):
        executors: list[tuple[Executor, int]] = [
            (InlineExecutor(), 1),
            (ActorsExecutor("srch_bench", workers=WORKERS), WORKERS),
            (TuneExecutor("srch_bench", workers=WORKERS), WORKERS),
        ]
        for index, (executor, workers) in enumerate(executors):
            place = Path(folder) / str(index)
            place.mkdir()
            run(executor, trials, workers, place)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
