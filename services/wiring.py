"""The composition root: settings become a store, folders, a reviewer of orders, and an executor."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from automl_prune.execution import ActorsExecutor, InlineExecutor, TuneExecutor, connect
from automl_prune.search.plan import Plan, Roots, make_plan
from automl_prune.search.ports import Executor, Store
from automl_prune.search.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from services.settings import Settings


def open_store(settings: Settings) -> Store:
    """The database of the settings, created or upgraded where needed."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return SqlStore.open(settings.database_url, upgrade=True)


def roots(settings: Settings) -> Roots:
    """Where names in orders are looked up."""
    return Roots(data=settings.data_root, weights=settings.weights_root, cache=settings.cache_dir)


def reviewer(settings: Settings) -> Callable[[SearchSpec], Mapping[str, Any]]:
    """A function that checks an order completely and summarises it; raises UserError."""

    def review(spec: SearchSpec) -> Mapping[str, Any]:
        torch.set_num_threads(1)  # the cores belong to the trials
        return make_plan(spec, roots(settings)).summary()

    return review


def make_executor(plan: Plan, search_id: str, settings: Settings) -> Executor:
    """The ordered executor; ``auto`` takes Ray Tune where candidates are trained and plain actors where they only score."""
    spec = plan.spec
    kind = spec.execution
    if kind == "auto":
        trains = plan.recipe.fine_tune.steps or plan.recipe.fine_tune.epochs
        kind = "tune" if trains else "actors"
    if kind == "inline":
        return InlineExecutor()
    here = max(1, int(settings.workers / spec.resources.cpu))
    workers = spec.trials.parallel if settings.ray_address else min(spec.trials.parallel, here)
    executor = ActorsExecutor if kind == "actors" else TuneExecutor
    return executor(search_id, workers=workers, cpu=spec.resources.cpu, gpu=spec.resources.gpu)


@contextmanager
def cluster(executor: Executor, settings: Settings) -> Iterator[None]:
    """Be connected to Ray for as long as the executor needs it: the configured cluster, or a local one."""
    if isinstance(executor, InlineExecutor):
        yield
        return
    local = settings.ray_address is None
    with connect(settings.ray_address, num_cpus=settings.workers if local else None):
        yield
