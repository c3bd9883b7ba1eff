"""Drivers that are killed (SIGKILL) just before or just after they write something, and what they wrote until then."""

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop import controller
from automl_prune.loop.job import Artifact, SearchState
from automl_prune.loop.latencies import DeviceLookup, only_local
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NETWORKS
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, Trial

list(NETWORKS)  # looks for plug-ins, which takes as long as a short search
SNAPSHOT_EVERY = 3
"""Told trials between two snapshots: these searches are short."""


class MortalStore(SqlStore):
    """A store whose process is killed at its ``death``-th moment: before its first write is 0, after it 1, and so on.

    Every write that was survived is a line of ``diary``.
    """

    def __init__(self, url: str, diary: Path, death: int | None) -> None:
        super().__init__(url)
        self._diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._death = death
        self._moments = 0

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        self._live()
        yield
        os.write(self._diary, f"{what}\n".encode())
        self._live()

    def _live(self) -> None:
        if self._moments == self._death:
            os.kill(os.getpid(), signal.SIGKILL)
        self._moments += 1

    def set_state(
        self,
        search_id: str,
        attempt: int,
        state: SearchState,
        *,
        reason: str | None = None,
        info: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        with self._writing(f"state {state}"):
            super().set_state(search_id, attempt, state, reason=reason, info=info, result=result)

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        with self._writing(f"ask {trial.number}"):
            return super().record_ask(search_id, attempt, trial)

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        with self._writing(f"start {number}"):
            return super().record_start(search_id, attempt, number)

    def record_outcome(
        self, search_id: str, attempt: int, number: int, outcome: Outcome, *, trial_attempt: int | None = None
    ) -> int:
        with self._writing(f"outcome {number}"):
            return super().record_outcome(search_id, attempt, number, outcome, trial_attempt=trial_attempt)

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        with self._writing("snapshot"):
            super().save_snapshot(search_id, attempt, snapshot)

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        with self._writing(f"artifact {artifact.name}"):
            super().add_artifact(search_id, attempt, artifact)


def drive(folder: Path, roots: Roots, death: int | None, devices: DeviceLookup = only_local) -> None:
    """Claim the only search of the database in ``folder`` and run it: a driver's life."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    controller.SNAPSHOT_EVERY = SNAPSHOT_EVERY
    store = MortalStore(url(folder), folder / "diary", death)
    job = store.claim(lease_seconds=600)
    assert job is not None
    plan = make_plan(SearchSpec.parse(job.spec), roots, devices=devices, before=job.info)
    run_search(plan, job, store, InlineExecutor(), folder / "artifacts")


def live(folder: Path, roots: Roots, death: int | None, devices: DeviceLookup = only_local) -> bool:
    """Let a driver of its own process drive; whether it was killed. It fails like an assertion if it ends otherwise."""
    driver = _processes().Process(target=drive, args=(folder, roots, death, devices))
    driver.start()
    driver.join(120)
    assert driver.exitcode in (0, -signal.SIGKILL), f"the driver ended with {driver.exitcode}"
    return driver.exitcode != 0


def url(folder: Path) -> str:
    """Where the store is."""
    return f"sqlite:///{folder / 'store.sqlite3'}"


def _processes() -> ForkServerContext:
    """Processes forked from one that has imported everything: that takes longer than such a search."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "sklearn.datasets", "automl_prune.strategies._optuna_study"])
    return context
