"""The Ray that trials run on: a private one on this machine, or a cluster at an address."""

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayError,
    RpcError,
)
from ray.job_config import JobConfig

from automl_prune.errors import EvaluationError, NotReadyError, UserError, WorkersLostError
from automl_prune.execution.common import build_evaluator, clip, limit_torch, prepare_worker
from automl_prune.loop.ports import TrialSource
from automl_prune.trial import Evaluator

LOCAL = "local"
logger = logging.getLogger(__name__)

_NO_EXIT_CODE = "connection error code 2"
_KILLED = "it was killed (exit 137, out of memory?) or crashed; Ray does not say which"

_LOST = (ObjectLostError, ObjectStoreFullError, OutOfDiskError, NodeDiedError, GetTimeoutError, RpcError)
"""What a machine's death or trouble looks like to one that waits for what is kept there."""
_LOOK_SECONDS = 1.0

OBJECT_STORE_BYTES = 512 * 2**20  # evaluators travel through it, data sets do not


@dataclass(frozen=True)
class Connection:
    """A Ray that this process is connected to, as ``job``; ``dashboard`` is its URL, None where there is none."""

    address: str
    namespace: str
    dashboard: str | None
    job: str

    @property
    def page(self) -> str | None:
        """Where the dashboard shows what this process does."""
        return None if self.dashboard is None else f"{self.dashboard}/#/jobs/{self.job}"


_current: Connection | None = None


def current() -> Connection | None:
    """The connection that :func:`connect` holds open in this process, if any."""
    return _current if ray.is_initialized() else None


@contextlib.contextmanager
def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    temp_dir: Path | None = None,
    dashboard: bool = True,
    namespace: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[Connection]:
    """Be connected to Ray for the length of a ``with`` block.

    Args:
        address: Of an existing cluster; None or ``local`` starts one that nobody else sees, with ports of its own,
            and ends it afterwards. Ray's token authentication stays as Ray sets it.
        num_cpus: Of a local Ray; None counts this machine's.
        num_gpus: Of a local Ray; None counts this machine's.
        temp_dir: Where a local Ray keeps its sockets and logs, at most some 40 characters long because sockets have
            a limit; None makes a folder that is removed afterwards.
        dashboard: Whether a local Ray has a dashboard, on 127.0.0.1.
        namespace: Of actor names; None takes one of its own.
        metadata: What the dashboard shows of this process, to everybody who may see it.

    Raises:
        RuntimeError: This process is connected already; there can be one connection at a time.
    """
    global _current  # Ray is one per process, and so is this
    if ray.is_initialized():
        raise RuntimeError("This process is already connected to Ray; executors use that connection.")
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"address": address or LOCAL, "namespace": namespace, "log_to_driver": False}
        options["job_config"] = JobConfig(metadata=dict(metadata or {}))
        if options["address"] == LOCAL:
            options |= {"num_cpus": num_cpus, "num_gpus": num_gpus, "object_store_memory": OBJECT_STORE_BYTES}
            options |= {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
            options["_temp_dir"] = str(temp_dir or stack.enter_context(_short_folder()))
        stack.callback(ray.shutdown)
        with environment(_variables(options.get("_temp_dir"))), _program_keeps_sigterm():
            context = ray.init(**options)
        url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        runtime = ray.get_runtime_context()
        _current = Connection(runtime.gcs_address, runtime.namespace, url, runtime.get_job_id())
        try:
            yield _current
        finally:
            _current = None


@contextlib.contextmanager
def joined(
    address: str, workers: int, cpu: float, gpu: float, *, dashboard: bool, source: TrialSource, patience: float
) -> Iterator[None]:
    """The Ray that this process is already connected to, else one for the length of the block.

    A local one gets just the processors that the workers ask for. Where no machine is large enough for one worker, one is
    waited for until the source wants nothing more.

    Raises:
        NotReadyError: There was none for ``patience`` seconds.
        EvaluationError: There is none, and ``patience`` is 0.
        UserError: A number of GPUs that Ray does not give.
    """
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            processors = math.ceil(workers * cpu) if address == LOCAL else None
            stack.enter_context(connect(address, num_cpus=processors, dashboard=dashboard))
        _await_room(cpu, gpu, source, patience)
        yield


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a ``with`` block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def lack(cpu: float, gpu: float) -> str:
    """What a worker asks for, and how much of that Ray's machines have free together."""
    asked = {name: amount for name, amount in (("CPU", cpu), ("GPU", gpu)) if amount}
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    has = " and ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in asked)
    return f"{' and '.join(f'{amount:g} {name}' for name, amount in asked.items())} asked, {has} free in the cluster"


def short_id(search_id: str) -> str:
    """The last characters of a search's id, which tell searches apart in the dashboard."""
    return search_id[-8:]


def cause_of_death(report: str) -> str:
    """Ray's report on a dead worker on one line: why, without the ids before it and the advice after it."""
    lines = [line for line in report.splitlines() if line and not line[0].isspace()]
    why = " ".join(lines).rsplit("Worker exit detail: ", 1)[-1]
    if _NO_EXIT_CODE in why:
        return _KILLED
    return clip(why.split(" If the process was killed by", 1)[0])


def receive_evaluator(reference: "ray.ObjectRef[Any]", cpu: float, gpu: float) -> Evaluator:
    """In a worker: build the evaluator whose factory was put into Ray.

    Raises EvaluationError when that cannot be done, WorkersLostError when what was sent was lost with a machine.
    """
    prepare_worker(cpu, gpu)
    try:
        make_evaluator = ray.get(reference)
    except _LOST as error:
        raise WorkersLostError(f"what was sent to a worker was lost: {str(error).splitlines()[0]}") from error
    except RayError as error:
        logger.exception("The evaluator could not be read.")
        raise EvaluationError(f"The evaluator could not be sent to a worker: {str(error).splitlines()[0]}") from error
    evaluator = build_evaluator(make_evaluator)
    limit_torch(cpu)
    return evaluator


def _await_room(cpu: float, gpu: float, source: TrialSource, patience: float) -> None:
    if gpu > 1 and gpu != int(gpu):
        raise UserError(f"A worker gets a part of one GPU or whole GPUs, not {gpu:g}.", pointer="/resources/gpu")
    if _has_room(cpu, gpu):
        return
    wanted = f"a worker needs {cpu:g} CPU and {gpu:g} GPU on one machine"
    if not patience:
        raise EvaluationError(f"A{wanted[1:]}; Ray's machines have {_machines()}.")
    late = time.monotonic() + patience
    with _demand(cpu, gpu):
        source.stand_still(f"waiting for a machine: {wanted}, Ray's machines have {_machines()}")
        while not _has_room(cpu, gpu):
            if source.finished or source.stopping:
                return
            if time.monotonic() >= late:
                others = any(has.get("CPU", 0) > 0 for has in _alive())
                raise NotReadyError(f"{wanted}; for {patience:g} seconds Ray's machines had {_machines()}", aside=others)
            time.sleep(_LOOK_SECONDS)
    source.stand_still(None)


@contextlib.contextmanager
def _demand(cpu: float, gpu: float) -> Iterator[None]:
    """Show what is wanted to a cluster that starts machines when there is something for them to do."""
    amounts = {name: amount for name, amount in (("CPU", cpu), ("GPU", gpu)) if amount}
    group = ray.util.placement_group([amounts])
    try:
        yield
    finally:
        ray.util.remove_placement_group(group)


def _has_room(cpu: float, gpu: float) -> bool:
    return any(has.get("CPU", 0) >= cpu and has.get("GPU", 0) >= gpu for has in _alive())


def _alive() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _machines() -> str:
    return "; ".join(f"{has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU" for has in _alive())


def _variables(folder: str | None) -> dict[str, str]:
    """What a Ray started here inherits; temporary files of its processes, which it kills, stay in its folder."""
    tempfile.gettempdir()  # is remembered from its first call on, which must not be in the middle of ray.init
    return {"RAY_USAGE_STATS_ENABLED": "0"} | ({"TMPDIR": folder} if folder else {})


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ap-", dir=base if len(base) <= 30 else "/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _program_keeps_sigterm() -> Iterator[None]:
    """ray.init replaces the handler of SIGTERM; one that the program set itself is put back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
