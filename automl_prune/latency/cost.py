"""Latencies beside the other costs of candidates, under names that say on which device."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.problem import CostFunction

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

Predict = Callable[[IntArray], FloatArray]
"""Maps widths ``[candidates, groups]`` to milliseconds, ``[candidates]``."""
LATENCY = "latency_ms"
"""The metric that a budget names, together with its device."""


def metric_on(device: str) -> str:
    """The name of a device's latency among a candidate's costs."""
    return f"{LATENCY}@{device}"


class WithLatency:
    """Costs from widths, predicted latencies included.

    ``architecture`` is what the other costs are of, for those who want to know the layers; None where they do not say.

    Args:
        costs: The costs that do not depend on a device.
        models: By device.
    """

    def __init__(self, costs: CostFunction, models: Mapping[str, Predict]) -> None:
        self._costs = costs
        self.architecture: Architecture | None = getattr(costs, "architecture", None)
        self._models = {metric_on(device): model for device, model in models.items()}

    def __call__(self, widths: IntArray) -> Mapping[str, FloatArray]:
        """Costs by metric, each ``[candidates]``, of ``widths`` ``[candidates, groups]``; worked out when asked for."""
        return _Costs(self._costs(widths), self._models, widths)


class _Costs(Mapping[str, FloatArray]):
    def __init__(self, costs: Mapping[str, FloatArray], models: Mapping[str, Predict], widths: IntArray) -> None:
        self._costs, self._models, self._widths = costs, models, widths
        self._known: dict[str, FloatArray] = {}

    def __getitem__(self, metric: str) -> FloatArray:
        if metric not in self._models:
            return self._costs[metric]
        if metric not in self._known:
            self._known[metric] = self._models[metric](self._widths)
        return self._known[metric]

    def __iter__(self) -> Iterator[str]:
        yield from self._costs
        yield from self._models

    def __len__(self) -> int:
        return len(self._costs) + len(self._models)
