"""Drivers that are killed at chosen moments: ``python drivers.py FOLDER DATABASE_URL COMMAND …``, JSON on stdout.

One process imports everything and plans the search; each driver is a fork of it, so that many can be killed per second. A
driver does all that a real one does (claim, renew, run_search with its store, publish) but for what evaluates candidates,
which is a formula. It ends itself by SIGKILL right before or right after its n-th call of the store, or is killed at a
moment of the parent's choosing.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from automl_prune.errors import AutomlPruneError
from automl_prune.evaluation.hypernetwork import leading
from automl_prune.evaluation.setup import EvaluationSetup
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop import controller
from automl_prune.loop.job import SearchJob
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.ports import Store
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.patient import PatientStore
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, Trial, TrialState

ORDER: dict[str, Any] = {
    "seed": 3,
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "abc", "options": {"population": 3}},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "trials": {"max": 6},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}
LEASE_SECONDS = 0.05
ROUNDS = 60
"""Drivers after which a search that has not ended never will."""


class Formula:
    """Scores candidates by their widths, and leaves the files that a real evaluator would; notes each evaluation."""

    def __init__(self, setup: EvaluationSetup, log: Path, pause: float) -> None:
        self.setup, self.log, self.pause = setup, log, pause

    def __call__(self, trial: Trial) -> Outcome:
        time.sleep(self.pause)
        widths = self.setup.space.widths(trial.candidate)
        top1 = sum(i * w for i, w in enumerate(trial.candidate.widths)) % 101 / 101
        metrics = {"top1": top1, "top5": top1, "loss": 1 - top1}
        details: dict[str, Any] = {"kept": leading(self.setup.architecture, widths), "before": metrics}
        if trial.arm == "final":
            (self.setup.artifacts / f"{trial.name}.safetensors").write_bytes(trial.name.encode())
        with self.log.open("a") as log:
            log.write(f"{trial.number}\n")
        return Outcome(TrialState.COMPLETE, metrics, {"images": 1.0}, details=details)


class Mortal:
    """A store whose user dies at one of its calls.

    Args:
        store: Does the work.
        at: Number of the call, from 0; -1 never.
        after: Whether the call is still carried out.
    """

    def __init__(self, store: Store, at: int, *, after: bool) -> None:
        self._store, self._at, self._after = store, at, after
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **options: Any) -> Any:
            now = len(self.calls) == self._at
            self.calls.append(name)
            if now and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*args, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


@dataclass
class House:
    """Where searches of one plan are driven."""

    plan: Plan
    folder: Path
    url: str

    def order(self) -> str:
        """Queue a search."""
        store = SqlStore(self.url)
        search_id = store.add_search(self.plan.spec.model_dump(mode="json"), name=None, labels={}).id
        store.close()
        return search_id

    def drive(self, at: int = -1, *, after: bool = False, pause: float = 0.0) -> list[str]:
        """Be a driver: take a search and run it; returns the calls that were made. Ends by SIGKILL if told to."""
        opened = SqlStore(self.url)
        mortal = Mortal(opened, at, after=after)
        store = cast(Store, PatientStore(cast(Store, mortal), seconds=30))
        job = store.claim(lease_seconds=LEASE_SECONDS)
        if job is not None:
            store.renew(job.id, job.attempt, lease_seconds=LEASE_SECONDS)
            artifacts, log = self.folder / job.id, self.folder / f"{job.id}.evaluated"
            run_search(self.plan, job, store, InlineExecutor(), artifacts, make_evaluator=lambda s: Formula(s, log, pause))
        opened.close()
        return mortal.calls

    def fork(self, work: Callable[[], object]) -> int:
        """Do it in a process of its own; returns its id."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            work()
            code = 0
        except AutomlPruneError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)

    def finish(self, search_id: str) -> int:
        """Start drivers until the search has ended; returns how many there were."""
        for count in range(ROUNDS):
            if self.job(search_id).state.is_terminal:
                return count
            os.waitpid(self.fork(self.drive), 0)
            time.sleep(0 if self.job(search_id).state.is_terminal else LEASE_SECONDS)
        raise SystemExit(f"{search_id} did not end: {self.job(search_id)}")

    def job(self, search_id: str) -> SearchJob:
        store = SqlStore(self.url)
        try:
            return store.get_search(search_id)
        finally:
            store.close()

    def account(self, search_id: str) -> dict[str, Any]:
        """What is left of a search: its asks and outcomes in the order of told, and how often what was evaluated."""
        store = SqlStore(self.url)
        job, trials = store.get_search(search_id), store.trials(search_id)
        files = sorted(artifact.name for artifact in store.artifacts(search_id))
        store.close()
        evaluated = [int(n) for n in (self.folder / f"{search_id}.evaluated").read_text().split()]
        told = sorted((t for t in trials if t.told_seq is not None), key=lambda t: t.told_seq or 0)
        shutil.rmtree(self.folder / search_id)
        return {
            "state": job.state.value,
            "attempt": job.attempt,
            "asks": [[t.trial.number, t.trial.arm, list(t.trial.candidate.widths)] for t in trials],
            "outcomes": [[t.trial.number, t.trial.state.value, dict(t.trial.metrics)] for t in told],
            "open": sum(t.told_seq is None for t in trials),
            "evaluated_twice": sorted({n for n in evaluated if evaluated.count(n) > 1}),
            "files": files,
            "best": None if job.result is None else [job.result["trial"], job.result["channels"]],
        }


def steps(house: House, every: int) -> Iterator[dict[str, Any]]:
    """Undisturbed first; then one search for every ``every``-th moment of a driver's life, killed at that moment."""
    search_id = house.order()
    calls = house.drive()
    yield {"calls": calls, **house.account(search_id)}
    for moment in range(0, 2 * len(calls), every):
        at, after = moment // 2, bool(moment % 2)
        search_id = house.order()
        pid = house.fork(lambda at=at, after=after: house.drive(at, after=after))  # type: ignore[misc]
        status = os.waitpid(pid, 0)[1]
        time.sleep(LEASE_SECONDS)
        house.finish(search_id)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        yield {"at": at, "after": after, "call": calls[at], "killed": killed, **house.account(search_id)}


def chaos(house: House, seconds: float, seed: int) -> Iterator[dict[str, Any]]:
    """Undisturbed first; then searches whose every driver is killed at a random moment, or lives to the end.

    There are more of them than ``seconds`` allow until one is killed.
    """
    search_id = house.order()
    began = time.monotonic()
    house.drive(pause=0.002)
    length = time.monotonic() - began
    yield house.account(search_id)
    rng, give_up, killed = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < give_up or not killed:
        search_id, kills = house.order(), 0
        while not house.job(search_id).state.is_terminal:
            pid = house.fork(lambda: house.drive(pause=0.002))
            time.sleep(rng.uniform(0, 0.7 * length * (1 + kills / 10)))  # the machine may have become slower since
            os.kill(pid, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            time.sleep(LEASE_SECONDS)
            if kills > ROUNDS:
                raise SystemExit(f"{search_id} makes no headway: {house.job(search_id)}")
        killed += kills
        yield {"kills": kills, **house.account(search_id)}


def main(arguments: list[str]) -> None:
    """Make a house and print one JSON object per search."""
    folder, url, command, *numbers = arguments
    home = Path(folder)
    controller.SNAPSHOT_EVERY = 4
    SqlStore.open(url, upgrade=True).close()
    plan = make_plan(SearchSpec.parse(ORDER), Roots(home, home, home))
    house = House(plan, home, url)
    made = steps(house, int(numbers[0])) if command == "steps" else chaos(house, float(numbers[0]), int(numbers[1]))
    for account in made:
        print(json.dumps(account), flush=True)  # noqa: T201  (what it found is what it is for)


if __name__ == "__main__":
    main(sys.argv[1:])
