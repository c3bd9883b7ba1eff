"""One search, one process: ``python -m services.driver SEARCH_ID ATTEMPT``, started by the launcher.

It renews the lease of its claim while it works. It ends with 0 once the search's end is recorded; anything else tells the
launcher that this attempt was lost.
"""

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from automl_prune import plugins
from automl_prune.errors import AutomlPruneError, LeaseLostError
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import make_plan
from automl_prune.loop.ports import Store
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.trial import Trial
from services import logs
from services.admission import Admissions
from services.settings import Settings, load_settings
from services.wiring import cluster, make_executor, open_store, roots

log = logging.getLogger("automl_prune.driver")

LOST = 3
"""Exit code of a driver whose search belongs to another one now."""


def main(arguments: list[str]) -> int:
    """Drive the search named on the command line; returns the exit code."""
    faulthandler.enable()
    search_id, attempt = arguments[0], int(arguments[1])
    settings = load_settings()
    logs.configure(settings.log_format, search_id=search_id, attempt=attempt)
    store = open_store(settings)
    job = store.renew(search_id, attempt, lease_seconds=settings.lease_seconds)
    cancel = threading.Event()
    with heartbeat(store, job, settings.lease_seconds, cancel):
        drive(job, store, settings, cancel=cancel, on_trial=_log_trial)
    return 0


def drive(
    job: SearchJob,
    store: Store,
    settings: Settings,
    *,
    cancel: threading.Event | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> SearchJob:
    """Run a claimed search to its recorded end: succeeded, cancelled, or failed with the reason.

    Raises:
        LeaseLostError: Another driver took over.
    """
    plugins.allow(settings.plugins)
    try:
        spec = SearchSpec.parse(job.spec)
        torch.set_num_threads(max(1, int(spec.resources.cpu)))  # more would fight with the workers, and with themselves
        plan = make_plan(spec, roots(settings), admit=Admissions(settings))
        executor = make_executor(plan, job.id, settings)
        artifacts = settings.artifacts_root / job.id
        with cluster(executor, settings):
            return run_search(plan, job, store, executor, artifacts, cancel=cancel, on_trial=on_trial)
    except LeaseLostError:
        raise
    except AutomlPruneError as error:
        log.exception("the search failed")
        store.set_state(job.id, job.attempt, SearchState.FAILED, reason=str(error))
        return store.get_search(job.id)


@contextmanager
def heartbeat(store: Store, job: SearchJob, lease_seconds: float, cancel: threading.Event) -> Iterator[None]:
    """Renew the lease three times per period and at least every second, and pass a cancel request on.

    A lost lease ends the process at once: whatever it would still write is refused anyway.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(min(1.0, lease_seconds / 3)):
            try:
                current = store.renew(job.id, job.attempt, lease_seconds=lease_seconds)
            except LeaseLostError:
                if not _ended(store, job):
                    log.error("the lease of %s was lost to another driver", job.id)
                    os._exit(LOST)
                return
            except Exception:
                log.exception("the lease could not be renewed; trying again")
                continue
            if current.cancel_requested:
                cancel.set()
            if current.state.is_terminal:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def _ended(store: Store, job: SearchJob) -> bool:
    """Whether this very driver brought the search to its end."""
    current = store.get_search(job.id)
    return current.state.is_terminal and current.attempt == job.attempt


def _log_trial(trial: Trial) -> None:
    reason = trial.outcome.reason if trial.outcome else None
    log.info("%s %s %s %s", trial.name, trial.arm, trial.state, reason or dict(trial.metrics))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LeaseLostError as error:
        log.error("%s", error)
        sys.exit(LOST)
