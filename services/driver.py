"""One search, one process: ``python -m services.driver SEARCH_ID ATTEMPT``, started by the launcher.

It renews the lease of its claim while it works. It ends with 0 once the search has ended, was paused or stopped; anything
else tells the launcher that this attempt came to nothing. On SIGTERM, which it also gets when its launcher is gone, it gives
the search back and ends at once.
"""

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import cast

import torch

from automl_prune import plugins
from automl_prune.errors import (
    AutomlPruneError,
    DeviceAwayError,
    DeviceChangedError,
    LeaseLostError,
    NotReadyError,
    WorkersLostError,
)
from automl_prune.latency.registered import DeviceStore
from automl_prune.loop.job import SearchJob, SearchState, Worker
from automl_prune.loop.latencies import only_local
from automl_prune.loop.plan import Plan, make_plan
from automl_prune.loop.ports import Store
from automl_prune.loop.run import no_room, run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import SEARCH
from automl_prune.messages import is_storage_full, said
from automl_prune.storage.patient import PatientStore, patiently
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.trial import Trial
from services import logs
from services.admission import Admissions
from services.devices import Preparing, StoppedError
from services.folders import without_places
from services.launcher.running import GIVEN_BACK
from services.measuring import Measuring
from services.outages import Outages
from services.settings import Settings, load_settings
from services.wiring import cluster, make_executor, open_store, roots

log = logging.getLogger("automl_prune.driver")

LOST = 3
"""Exit code of a driver whose search belongs to another one now."""
NOT_READY = 4
"""Exit code of a driver that gave its search back because it could not be run here now."""


def main(arguments: list[str]) -> int:
    """Drive the search named on the command line; returns the exit code."""
    faulthandler.enable()
    search_id, attempt = arguments[0], int(arguments[1])
    settings = load_settings()
    logs.configure(settings.log_format, search_id=search_id, attempt=attempt)
    opened = patiently(lambda: open_store(settings))
    store = cast(Store, PatientStore(opened))
    _give_back_when_told(opened, search_id, attempt)
    worker = Worker.here("driver")
    job = store.renew(search_id, attempt, lease_seconds=settings.lease_seconds, worker=worker)
    requests = Requests()
    with heartbeat(opened, job, settings.lease_seconds, requests):
        try:
            devices = cast(DeviceStore, PatientStore(cast(Store, SqlDevices(opened.database))))
            drive(job, store, settings, requests=requests, on_trial=_log_trial, devices=devices)
        except LeaseLostError:
            raise
        except Exception as error:
            log.exception("the driver cannot go on")
            return give_up(store, job, error, settings)
    return 0


def give_up(store: Store, job: SearchJob, error: Exception, settings: Settings) -> int:
    """Give a search back that cannot go on; returns the driver's exit code.

    It is lost only where it may be to blame. One that finds no room pauses, and so does one that asks for a larger machine
    than others do; one whose Ray is not there waits.
    """
    if is_storage_full(error):
        store.release(job.id, job.attempt, reason=no_room(said(error)), hold=True)
        return NOT_READY
    if isinstance(error, NotReadyError):
        what = "paused" if error.aside else "queued again"
        store.release(job.id, job.attempt, reason=f"{what}: {without_places(str(error), settings)}", hold=error.aside)
        return NOT_READY
    how = f"{said(error)} See search.log."
    store.release(job.id, job.attempt, reason=how, lost=True, most_losses=settings.max_attempts)
    return 1


def drive(
    job: SearchJob,
    store: Store,
    settings: Settings,
    *,
    requests: "Requests | None" = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    devices: DeviceStore | None = None,
) -> SearchJob:
    """Run a claimed search to its recorded end (succeeded, cancelled, or failed with the reason), or until it is paused.

    Args:
        job: The claimed search.
        store: Where it is recorded.
        settings: Of the service.
        requests: What users ask for meanwhile.
        on_trial: Called with every trial that ends.
        devices: Where devices other than this machine are known; None: nowhere.

    Raises:
        LeaseLostError: Another driver took over.
        NotReadyError: Ray, or a machine of it that is large enough, is not there.
        WorkersLostError: What it ran on was lost.
    """
    plugins.allow(settings.plugins)
    asked = requests or Requests()
    preparing = Preparing(store, job, asked.cancel.is_set, asked.pause.is_set)
    found = preparing.devices(devices, settings) if devices else only_local
    try:
        store.set_state(job.id, job.attempt, SearchState.PREPARING, reason="preparing the network and its data")
        spec = SearchSpec.parse(job.spec)
        torch.set_num_threads(max(1, int(spec.resources.cpu)))  # more would fight with the workers, and with themselves
        with Measuring(settings, whose="service", check=preparing.check_midway) as measuring:
            plan = make_plan(
                spec,
                roots(settings),
                admit=Admissions(settings),
                devices=found,
                local=preparing.local(measuring),
                progress=preparing.progress,
                check=preparing.check,
                before=job.info,
            )
            preparing.over = True
            executor = make_executor(plan, job.id, settings, seen=_seen(plan, store, job))
            artifacts = settings.artifacts_root / job.id
            with cluster(executor, settings):
                return run_search(
                    plan, job, store, executor, artifacts, cancel=asked.cancel, pause=asked.pause, on_trial=on_trial
                )
    except (LeaseLostError, NotReadyError, WorkersLostError):
        raise
    except StoppedError:
        return store.release(job.id, job.attempt, reason="queued again: what had been asked for was taken back")
    except DeviceAwayError as error:
        since = f"{error.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        reason = f"paused: device {error.device!r} has been silent since {since}; resume once its agent runs again"
        return store.release(job.id, job.attempt, reason=reason, hold=True)
    except DeviceChangedError as error:
        return store.release(job.id, job.attempt, reason=f"paused: {without_places(str(error), settings)}", hold=True)
    except AutomlPruneError as error:
        log.exception("the search failed")
        reason = without_places(str(error), settings)
        store.set_state(job.id, job.attempt, SearchState.FAILED, reason=reason)
        return store.get_search(job.id)


@dataclass(frozen=True)
class Requests:
    """What users asked for while the search is driven."""

    cancel: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)


@contextmanager
def heartbeat(store: Store, job: SearchJob, lease_seconds: float, requests: Requests) -> Iterator[None]:
    """Renew the lease three times per period and at least every second, and pass requests on.

    A lost lease ends the process at once: whatever it would still write is refused anyway.
    """
    over, outages = threading.Event(), Outages(log, "the store that holds the lease")

    def beat() -> None:
        while not over.wait(min(1.0, lease_seconds / 3)):
            try:
                current = _renewed(store, job, lease_seconds)
            except LeaseLostError:
                log.error("the lease of %s was lost to another driver", job.id)
                os._exit(LOST)
            except Exception as error:
                outages.failed(error)
                continue
            outages.answered()
            if current is None:
                return
            if current.cancel_requested:
                requests.cancel.set()
            if current.pause_requested:
                requests.pause.set()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def _renewed(store: Store, job: SearchJob, lease_seconds: float) -> SearchJob | None:
    """The search with its lease renewed; None when this very driver brought it to its end, or gave it back."""
    try:
        return store.renew(job.id, job.attempt, lease_seconds=lease_seconds)
    except LeaseLostError:
        current = store.get_search(job.id)
        if current.attempt == job.attempt and current.lease_expires_at is None:
            return None
        raise


def _give_back_when_told(store: Store, search_id: str, attempt: int) -> None:
    """On SIGTERM queue the search again and end, whatever the main thread is at."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())

    def leave() -> None:
        told.wait()
        try:
            store.release(search_id, attempt, reason=GIVEN_BACK)
        except LeaseLostError:
            pass  # it has just ended, or was given back
        except Exception:
            log.exception("the search could not be given back; its lease will run out")
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()


def _seen(plan: Plan, store: Store, job: SearchJob) -> list[list[dict[str, float]]]:
    """What trials of earlier drivers reported while they were trained, in the order in which they ended."""
    if plan.spec.trials.early_stop is None:
        return []
    ended = sorted((t for t in store.trials(job.id, arm=SEARCH) if t.told_seq is not None), key=lambda t: t.told_seq or 0)
    return [t.trial.outcome.details.get("reported", []) for t in ended if t.trial.outcome]


def _log_trial(trial: Trial) -> None:
    reason = trial.outcome.reason if trial.outcome else None
    log.info("%s %s %s %s", trial.name, trial.arm, trial.state, reason or dict(trial.metrics))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LeaseLostError as error:
        log.error("%s", error)
        sys.exit(LOST)
