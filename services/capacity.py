"""What the machines of a search can hold at most, so that an order for more is refused before it waits for ever."""

import logging
import threading
import time
from collections.abc import Sequence

import torch

from automl_prune.errors import FieldError, SpecError
from automl_prune.loop.spec import SearchSpec
from services import ray_auth
from services.launcher.cluster import accepts
from services.settings import Settings

log = logging.getLogger(__name__)

FRESH_SECONDS = 60.0
ASK_SECONDS = 5

Machine = tuple[float, float]
"""Processors and GPUs."""


def slots(spec: SearchSpec, settings: Settings) -> int:
    """Trials of an order that run at once at most."""
    if spec.execution == "inline":
        return 1
    if settings.ray_address:
        return spec.trials.parallel
    return min(spec.trials.parallel, max(1, int(settings.workers / spec.resources.cpu)))


class Capacity:
    """The machines that trials run on: this one, or those of the configured cluster, asked for once a minute.

    Args:
        settings: Name the cluster, and the processors of this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._machines: Sequence[Machine] = ()
        self._until = 0.0

    def check(self, spec: SearchSpec) -> None:
        """Raise SpecError when a trial asks for more than any single machine has; a cluster that is away is believed."""
        if spec.execution == "inline":
            return
        machines, cpu, gpu = self.machines(), spec.resources.cpu, spec.resources.gpu
        if not machines or any(has_cpu >= cpu and has_gpu >= gpu for has_cpu, has_gpu in machines):
            return
        most = [max(amounts) for amounts in zip(*machines, strict=True)]
        ordered = {"cpu": (cpu, most[0], "processors"), "gpu": (gpu, most[1], "GPUs")}
        where = "this machine has" if ray_auth.is_private(self._settings) else "the largest machine of the cluster has"
        faults = [
            FieldError(f"/resources/{name}", f"A trial asks for {asked:g} {unit}; {where} {has:g}.", "too_large")
            for name, (asked, has, unit) in ordered.items()
            if asked > has
        ]
        together = f"No machine has {cpu:g} processors and {gpu:g} GPUs at once."
        raise SpecError(faults or [FieldError("/resources", together, "too_large")])

    def machines(self) -> Sequence[Machine]:
        """What they have; nothing when nobody knows."""
        if ray_auth.is_private(self._settings):
            return [(self._settings.workers, torch.cuda.device_count())]
        with self._lock:
            if time.monotonic() >= self._until:
                self._machines = _of_cluster(str(self._settings.ray_address))
                self._until = time.monotonic() + FRESH_SECONDS
            return self._machines


def _of_cluster(address: str) -> Sequence[Machine]:
    from ray.util.state import list_nodes

    if not accepts(address):
        return ()
    try:
        nodes = list_nodes(address, filters=[("state", "=", "ALIVE")], timeout=ASK_SECONDS, raise_on_missing_output=False)
    except Exception as error:  # of many kinds, when its dashboard is away
        log.warning("the cluster does not say how large its machines are (%s)", type(error).__name__)
        return ()
    found = [dict(node.resources_total or {}) for node in nodes]
    return [(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in found]
