"""Executors: where trials are evaluated — in this process, on named Ray actors, or by Ray Tune.

Importing the package imports neither Ray nor Tune; naming an executor that needs them does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from automl_prune.execution.common import evaluate_safely
from automl_prune.execution.inline import InlineExecutor

if TYPE_CHECKING:
    from automl_prune.execution.actors import ActorsExecutor
    from automl_prune.execution.cluster import Connection, connect, environment
    from automl_prune.execution.stopping import EarlyStop
    from automl_prune.execution.tune import TuneExecutor

_NEED_RAY = {
    "ActorsExecutor": "actors",
    "Connection": "cluster",
    "EarlyStop": "stopping",
    "TuneExecutor": "tune",
    "connect": "cluster",
    "environment": "cluster",
}

__all__ = [
    "ActorsExecutor",
    "Connection",
    "EarlyStop",
    "InlineExecutor",
    "TuneExecutor",
    "connect",
    "environment",
    "evaluate_safely",
]


def __getattr__(name: str) -> Any:
    if name in _NEED_RAY:
        return getattr(import_module(f"{__name__}.{_NEED_RAY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
