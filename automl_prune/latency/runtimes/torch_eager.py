"""torch as it is: one operation after the other, on the CPU, or on a GPU as a graph that is replayed."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.runtimes.base import RUNTIMES, Runtime
from automl_prune.latency.timing import Clock, Run

_FLOATS = ("float32", "bfloat16", "float16")
GRAPH_SECONDS, MOST_CALLS = 0.0005, 100
"""What one graph on a GPU takes at least, where so many calls do: to start a graph takes longer than a small layer does, and
the layers of a network follow each other within one."""


def _typed(model: nn.Module, sample: Tensor, conditions: Conditions) -> tuple[nn.Module, Tensor]:
    dtype = getattr(torch, conditions.dtype)
    return model.to(dtype), sample.to(dtype) if sample.is_floating_point() else sample


@RUNTIMES.add_instance("torch")
class TorchEager(Runtime):
    """torch on the CPU, an operation at a time."""

    help = "torch on the CPU, eager."
    dtypes: ClassVar[tuple[str, ...]] = _FLOATS

    def version(self) -> str | None:
        """That of torch."""
        return str(torch.__version__)

    def ready(self, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        """A call in inference mode."""
        model, sample = _typed(model, sample, conditions)
        return torch.inference_mode()(lambda: model(sample))


@RUNTIMES.add_instance("torch-compile")
class TorchCompiled(Runtime):
    """``torch.compile`` on the CPU; each block of a table is compiled, so that tables take long."""

    help = "torch.compile on the CPU; building a table compiles every block of it."
    dtypes: ClassVar[tuple[str, ...]] = _FLOATS

    def version(self) -> str | None:
        """That of torch."""
        return str(torch.__version__)

    def ready(self, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        """A call of what was compiled for exactly this shape."""
        model, sample = _typed(model, sample, conditions)
        torch.compiler.reset()  # else the compiler gives up on specialising after a few blocks
        compiled = torch.compile(model, dynamic=False)
        run: Run = torch.inference_mode()(lambda: compiled(sample))
        run()
        return run


@RUNTIMES.add_instance("torch-cuda")
class TorchCuda(Runtime):
    """torch on the first CUDA device, captured as a graph and timed by events."""

    help = "torch on a CUDA device, as a CUDA graph, timed by events."
    dtypes: ClassVar[tuple[str, ...]] = _FLOATS

    def version(self) -> str | None:
        """Of torch, CUDA and the device; None without one."""
        if not torch.cuda.is_available():
            return None
        return f"{torch.__version__} on {torch.cuda.get_device_name()}"

    def ready(self, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        """A replay of what was captured: one call, or of a small network as many as take about ``GRAPH_SECONDS``."""
        model, sample = _typed(model.cuda(), sample.cuda(), conditions)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(3):  # libraries choose their algorithms before anything is captured
                model(sample)
        torch.cuda.current_stream().wait_stream(side)
        one = _Captured(model, sample, 1)
        seconds = min(by_events(one, 1) for _ in range(5))
        calls = min(MOST_CALLS, math.ceil(GRAPH_SECONDS / max(seconds, 1e-6)))
        return one if calls == 1 else _Captured(model, sample, calls)

    @property
    def clock(self) -> Clock:
        """Events around the calls, on the device's own clock."""
        return by_events


class _Captured:
    """Calls of a network that were captured as a graph, one after the other.

    The graph knows addresses only, so that what lies there is kept here.
    """

    def __init__(self, model: nn.Module, sample: Tensor, calls: int) -> None:
        self.calls, self._reads = calls, (model, sample)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            for _ in range(calls):
                model(sample)

    def __call__(self) -> None:
        self._graph.replay()


def by_events(run: Run, calls: int) -> float:
    """Seconds of so many calls by the device's clock: those of as many replays as make up at least so many."""
    in_one = run.calls if isinstance(run, _Captured) else 1
    replays = math.ceil(calls / in_one)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    first.record()
    for _ in range(replays):
        run()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3 * calls / (replays * in_one)
