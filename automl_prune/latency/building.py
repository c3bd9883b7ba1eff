"""From a device to a model of its milliseconds: time the blocks, time some whole networks, fit, and check on others."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl_prune.architecture import Architecture
from automl_prune.latency.blocks import Block
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import Device, OnTiming
from automl_prune.latency.gauge import Gauge, OnProgress
from automl_prune.latency.layouts import DIVISOR, Layout
from automl_prune.latency.model import REST, Check, LatencyModel
from automl_prune.latency.runtimes.base import RUNTIMES
from automl_prune.latency.sampling import CHECKED, FITTED, LEAST_CHECKED, fastest_candidates, held_out, network_sample
from automl_prune.latency.signatures import LayersAlike, layers_alike
from automl_prune.latency.table import LatencyTable
from automl_prune.latency.times import Mark
from automl_prune.latency.work import NetworkWork, Work, digest
from automl_prune.space import Candidate

TOLERANCE = 0.10
"""Mean relative error of predictions beyond which they are not trusted (Yang et al. 2018 leave it open)."""


@dataclass
class DeviceLatency:
    """What is known of the milliseconds of one network's candidates on one device.

    Attributes:
        device: Its name.
        conditions: Under which everything was timed.
        model: Predicts.
        check: How well it does.
        full_ms: The full network, which every ratio is taken to.
        fastest: The network of the space that took the least time of all that were timed.
        fastest_ms: What it took.
        least_predicted_ms: The least that is predicted of any network that was timed.
        mark: Up to which place in the file of times all this comes from.
        about: The device and its measurements, as JSON data.
    """

    device: str
    conditions: Conditions
    model: LatencyModel
    check: Check
    full_ms: float
    fastest: Candidate
    fastest_ms: float
    least_predicted_ms: float
    mark: Mark
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether predictions are known to be good enough to decide by."""
        return self.check.mape <= TOLERANCE and len(self.check.measured) >= LEAST_CHECKED

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for results and pages."""
        factors = dict(zip([*self.model.kinds, *REST], self.model.factors.tolist(), strict=True))
        return {
            "device": self.device, "conditions": self.conditions.to_json(), "full_ms": self.full_ms,
            "check": self.check.to_json(), "tolerance": TOLERANCE, "trusted": self.trusted, "factors": factors,
            "times": self.mark.to_json(), **self.about,
        }  # fmt: skip


def build(gauge: Gauge, architecture: Architecture, *, progress: OnProgress = lambda done, of: None) -> DeviceLatency:
    """The model of a device; what was timed before, by any search, is used again.

    Where predictions miss by more than ``TOLERANCE``, more networks are timed and fitted to, once. All of it comes from
    times up to one mark, so that it can be had again whatever others add to them.

    Args:
        gauge: The device, with network and space.
        architecture: Of the network.
        progress: Called with how much is timed, of how much.

    Raises:
        DeviceError, MeasurementError: As the device says.
    """
    while (found := known(gauge, architecture)) is None:
        _built(gauge, architecture, progress)
    return found


def known(gauge: Gauge, architecture: Architecture, mark: Mark | None = None) -> DeviceLatency | None:
    """What :func:`build` gives where all that it needs was timed before; None where it would ask the device.

    With a ``mark``, where all of it was timed before that; what came later does not count.
    """
    offline = copy(gauge)
    offline.device, offline.times = _Nobody(gauge.device), gauge.times.until(mark or gauge.times.mark)
    try:
        return _built(offline, architecture)
    except _NotTimedError:
        return None


def _built(gauge: Gauge, architecture: Architecture, progress: OnProgress = lambda done, of: None) -> DeviceLatency:
    """The model from all that is timed while it is made; what is missing is asked for."""
    space = gauge.space
    alike = layers_alike(architecture, space)
    works, drawn = _everything(gauge, alike)
    gauge.time([gauge.network])  # a device that cannot run it says so before it has timed everything else
    gauge.time(works, progress)
    model = LatencyModel(architecture, space, {layers.signature: _table(layers, gauge) for layers in alike})
    check = _fitted(gauge, model, drawn)
    if check.mape > TOLERANCE:
        drawn = network_sample(space, 2 * FITTED + CHECKED)
        gauge.time([gauge.work(candidate) for candidate in drawn], progress)
        check = _fitted(gauge, model, drawn)
    timings = [gauge.times[work] for work in works]
    about = {
        "fingerprint": dict(gauge.description.fingerprint),
        "version": gauge.description.runtimes[gauge.conditions.runtime],
        "signatures": len(alike), "timed": len(set(works)),
        "noise": float(np.median([timing.error for timing in timings])),
        "unsettled": sum(not timing.settled for timing in timings),
    }  # fmt: skip
    fast = [*fastest_candidates(space, model), *drawn, space.full]
    ms = gauge.measure(fast)
    fastest, predicted = int(np.argmin(ms)), float(model(space.array(fast)).min())
    least = (fast[fastest], float(ms[fastest]), predicted)
    return DeviceLatency(gauge.device.name, gauge.conditions, model, check, gauge.full_ms, *least, gauge.times.mark, about)


class _NotTimedError(Exception):
    """Something was not timed before."""


class _Nobody:
    """A device that is not to be asked now."""

    def __init__(self, device: Device) -> None:
        self.name, self.describe = device.name, device.describe

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        """Nothing is timed."""
        raise _NotTimedError


def _everything(gauge: Gauge, alike: Sequence[LayersAlike]) -> tuple[list[Work], list[Candidate]]:
    """All that is timed: the full network, blocks, random networks; and the candidates that these are."""
    drawn = network_sample(gauge.space)
    blocks = [block for layers in alike for block in blocks_of(layers, gauge)]
    return [gauge.network, *blocks, *map(gauge.work, drawn)], drawn


def _fitted(gauge: Gauge, model: LatencyModel, drawn: Sequence[Candidate]) -> Check:
    """Fit the model to all but the last networks, and check it on these; all serve for both where there are hardly any."""
    widths, measured = gauge.space.array(drawn), gauge.measure(drawn)
    held = held_out(len(drawn))
    fitted = slice(-held) if len(drawn) > held else slice(None)
    model.fit(widths[fitted], measured[fitted])
    return Check.of(model(widths[-held:]), measured[-held:])


def full_network(name: str, num_classes: int, architecture: Architecture) -> NetworkWork:
    """A network as what all its candidates are timed in turn with."""
    return NetworkWork(name, num_classes, digest(architecture))


def blocks_of(layers: LayersAlike, gauge: Gauge) -> list[Block]:
    """What is timed for one signature: a grid of the widths that its layers can have."""
    inputs, outputs = layers.reachable(gauge.space)
    if layers.signature.tied:
        return [layers.signature.at(width, width) for width in np.concatenate(DIVISOR.grid(outputs)).tolist()]
    return [layers.signature.at(i, o) for i, o in _layout(layers, gauge).grid(inputs, outputs)]


def _layout(layers: LayersAlike, gauge: Gauge) -> Layout:
    return RUNTIMES.get(gauge.conditions.runtime).layout(layers.signature)


def _table(layers: LayersAlike, gauge: Gauge) -> LatencyTable:
    blocks = blocks_of(layers, gauge)
    reference = float(np.median([gauge.times[block].reference_ms for block in blocks]))
    times = {(block.inputs, block.outputs): gauge.times[block].ratio * reference for block in blocks}
    return LatencyTable.of(layers.signature, times, _layout(layers, gauge))
