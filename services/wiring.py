"""The composition root: settings become a store, folders, a reviewer of orders, and an executor."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from automl_prune import execution
from automl_prune.architecture import Architecture
from automl_prune.errors import NotReadyError
from automl_prune.execution.inline import InlineExecutor
from automl_prune.latency.registered import DeviceStore
from automl_prune.loop.latencies import only_local
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.ports import Executor
from automl_prune.loop.spec import SearchSpec
from automl_prune.messages import is_storage_full, said
from automl_prune.networks import NetworkDefinition
from automl_prune.storage.sql import SqlStore
from services import ray_auth
from services.admission import Admissions
from services.capacity import Capacity, slots
from services.database import database_url
from services.devices import registered
from services.home import make_home
from services.settings import Settings

_REVIEWS = 2
"""Orders that are checked at the same time."""


def open_store(settings: Settings) -> SqlStore:
    """The database of the settings, created or upgraded where needed."""
    make_home(settings.home)
    return SqlStore.open(database_url(settings), upgrade=True)


def roots(settings: Settings) -> Roots:
    """Where names in orders are looked up."""
    most = settings.max_weights_mb * 1_000_000
    return Roots(data=settings.data_root, weights=settings.weights_root, cache=settings.cache_dir, most_bytes=most)


def reviewer(settings: Settings, devices: DeviceStore | None = None) -> Callable[[SearchSpec, str], Mapping[str, Any]]:
    """A function that checks a tenant's order completely and summarises it; thread-safe, a few orders at once.

    Devices that an order names must be known and heard of; none is asked for anything.

    An order whose network must be admitted first gives its turn away while it waits for that. Raises UserError, or BusyError
    when too many wait, of all or of the tenant.
    """
    turns, admissions, capacity = threading.BoundedSemaphore(_REVIEWS), Admissions(settings), Capacity(settings)

    def admit(network: NetworkDefinition, num_classes: int, cache: Path, *, tenant: str) -> Architecture:
        if (found := admissions.known(network, num_classes, cache)) is not None:
            return found
        turns.release()
        try:
            return admissions(network, num_classes, cache, tenant=tenant)
        finally:
            turns.acquire()

    def review(spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        torch.set_num_threads(1)  # the cores belong to the trials
        with turns:
            capacity.check(spec)  # what no machine can hold is known before the long work
            found = only_local if devices is None else registered(devices, tenant, settings)
            admits = partial(admit, tenant=tenant)
            return make_plan(spec, roots(settings), admit=admits, fetch=False, devices=found).summary()

    return review


def make_executor(
    plan: Plan, search_id: str, settings: Settings, *, seen: Sequence[Sequence[Mapping[str, float]]] = ()
) -> Executor:
    """The ordered executor; ``auto`` takes Ray Tune where candidates are trained and plain actors where they only score.

    ``seen`` is what trials reported that ended before, where trials are stopped early.
    """
    spec = plan.spec
    kind = spec.execution
    if kind == "auto":
        trains = plan.recipe.fine_tune.steps or plan.recipe.fine_tune.epochs
        kind = "tune" if trains else "actors"
    if kind == "inline":
        return InlineExecutor()
    workers = slots(spec, settings)
    cpu, gpu = spec.resources.cpu, spec.resources.gpu
    patience = 0.0 if ray_auth.is_private(settings) else settings.ray_patience_seconds
    if kind == "actors":
        return execution.ActorsExecutor(search_id, workers=workers, cpu=cpu, gpu=gpu, patience=patience)
    rule, aim = spec.trials.early_stop, plan.problem.objectives[0]
    early = execution.EarlyStop(rule, aim.metric, aim.maximize, seen) if rule else None
    return execution.TuneExecutor(search_id, workers=workers, cpu=cpu, gpu=gpu, patience=patience, early_stop=early)


@contextmanager
def cluster(executor: Executor, settings: Settings) -> Iterator[None]:
    """Be connected to Ray for as long as the executor needs it: the configured cluster, or a local one.

    Raises NotReadyError when there is no connection.
    """
    with ExitStack() as stack:
        if not isinstance(executor, InlineExecutor):
            try:
                _connect(stack, executor, settings)
            except Exception as error:  # of many kinds, and none is the search's fault
                if is_storage_full(error):
                    raise
                raise NotReadyError(f"no connection to Ray ({said(error)})") from error
        yield


def _connect(stack: ExitStack, executor: Executor, settings: Settings) -> None:
    about = shown_in_ray(getattr(executor, "search_id", None), settings)
    if ray_auth.is_private(settings):
        stack.enter_context(ray_auth.own_ray(settings.home))
        stack.enter_context(execution.connect(None, num_cpus=settings.workers, metadata=about))
    else:
        ray_auth.require_closed(settings)
        stack.enter_context(execution.connect(settings.ray_address, metadata=about))
        ray_auth.require_closed(settings)  # again, as it may have been away


def shown_in_ray(search_id: str | None, settings: Settings) -> dict[str, str]:
    """What leads from Ray's dashboard back to a search: its id, and its page where the service's address is known."""
    if search_id is None:
        return {}
    if settings.public_url is None:
        return {"search_id": search_id}
    return {"search_id": search_id, "page": f"{settings.public_url.rstrip('/')}/searches/{search_id}"}
