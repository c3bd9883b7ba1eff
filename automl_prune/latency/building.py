"""From a device to a model of its milliseconds: time the blocks, time some whole networks, fit, and check on others."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.latency.blocks import Block
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import Device, OnTiming
from automl_prune.latency.layouts import DIVISOR, Layout
from automl_prune.latency.model import REST, Check, LatencyModel
from automl_prune.latency.runtimes.base import RUNTIMES, check_runs
from automl_prune.latency.signatures import LayersAlike, layers_alike
from automl_prune.latency.table import LatencyTable
from automl_prune.latency.times import Times
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work, digest
from automl_prune.space import Candidate, ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
OnProgress = Callable[[int, int], None]

FITTED, CHECKED = 36, 12
"""Random networks that factors are fitted to, and that predictions are then checked on."""
SEED = 0
"""Of these networks: the same for all searches, so that what one has timed serves the next."""
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
        fastest_ms: The least that was predicted or measured of any network of the space.
        about: The device and its measurements, as JSON data.
    """

    device: str
    conditions: Conditions
    model: LatencyModel
    check: Check
    full_ms: float
    fastest_ms: float
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether predictions are good enough to decide by."""
        return self.check.mape <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for results and pages."""
        factors = dict(zip([*self.model.kinds, *REST], self.model.factors.tolist(), strict=True))
        return {
            "device": self.device, "conditions": self.conditions.to_json(), "full_ms": self.full_ms,
            "check": self.check.to_json(), "tolerance": TOLERANCE, "trusted": self.trusted, "factors": factors, **self.about,
        }  # fmt: skip


class Gauge:
    """Times candidates of one network on one device, each once.

    Args:
        device: Where.
        conditions: How.
        network: The full network, as work.
        space: What the candidates are of.
        folder: Where what was timed is kept.

    Raises:
        DeviceError: The device is not heard of, or cannot run networks under the conditions.
    """

    def __init__(
        self, device: Device, conditions: Conditions, network: NetworkWork, space: ChannelSpace, folder: Path
    ) -> None:
        self.device, self.conditions, self.space = device, conditions, space
        self.description = device.describe()
        check_runs(self.description, conditions, device.name)
        self.network = network.full
        self.times = Times(folder, self.description.key(conditions))

    def work(self, candidate: Candidate) -> NetworkWork:
        """The candidate as work."""
        full = self.space.full.widths
        widths = zip(self.space.names, candidate.widths, full, strict=True)
        changed = tuple(sorted((name, width) for name, width, whole in widths if width != whole))
        return NetworkWork(self.network.network, self.network.num_classes, self.network.architecture, changed)

    def time(self, works: Sequence[Work], progress: OnProgress = lambda done, of: None) -> list[Timing]:
        """Timings of all, in their order; what is known is not timed again."""
        missing = self.times.missing(works)
        left = iter(range(1, len(missing) + 1))

        def done(work: Work, timing: Timing) -> None:
            self.times.add(work, timing)
            progress(next(left), len(missing))

        if missing:
            self.device.time(missing, self.conditions, done)
        return [self.times[work] for work in works]

    @property
    def full_ms(self) -> float:
        """Milliseconds of the full network."""
        return self.time([self.network])[0].ms

    def measure(self, candidates: Sequence[Candidate]) -> FloatArray:
        """Milliseconds of candidates, ``[candidates]``: each one's ratio to the full network, times what that takes."""
        ratios = [timing.ratio for timing in self.time([self.work(c) for c in candidates])]
        return np.array(ratios) * self.full_ms


def build(gauge: Gauge, architecture: Architecture, *, progress: OnProgress = lambda done, of: None) -> DeviceLatency:
    """The model of a device; what was timed before, by any search, is used again.

    Where predictions miss by more than ``TOLERANCE``, more networks are timed and fitted to, once.

    Args:
        gauge: The device, with network and space.
        architecture: Of the network.
        progress: Called with how much is timed, of how much.

    Raises:
        DeviceError, MeasurementError: As the device says.
    """
    space = gauge.space
    alike = layers_alike(architecture, space)
    works, drawn = _everything(gauge, alike)
    gauge.time(works, progress)
    model = LatencyModel(architecture, space, {layers.signature: _table(layers, gauge) for layers in alike})
    check = _fitted(gauge, model, drawn)
    if check.mape > TOLERANCE:
        drawn = random_candidates(space, 2 * FITTED + CHECKED, SEED)
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
    fastest = min(float(gauge.measure(drawn).min()), float(model(space.array([space.narrowest]))[0]))
    return DeviceLatency(gauge.device.name, gauge.conditions, model, check, gauge.full_ms, fastest, about)


def known(gauge: Gauge, architecture: Architecture) -> DeviceLatency | None:
    """What :func:`build` gives where all that it needs was timed before; None where it would ask the device."""
    offline = copy(gauge)
    offline.device = _Nobody(gauge.device)
    try:
        return build(offline, architecture)
    except _NotTimedError:
        return None


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
    drawn = random_candidates(gauge.space, FITTED + CHECKED, SEED)
    blocks = [block for layers in alike for block in blocks_of(layers, gauge)]
    return [gauge.network, *blocks, *map(gauge.work, drawn)], drawn


def _fitted(gauge: Gauge, model: LatencyModel, drawn: Sequence[Candidate]) -> Check:
    """Fit the model to all but the last networks, and check it on these."""
    widths, measured = gauge.space.array(drawn), gauge.measure(drawn)
    model.fit(widths[:-CHECKED], measured[:-CHECKED])
    return Check.of(model(widths[-CHECKED:]), measured[-CHECKED:])


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


def random_candidates(space: ChannelSpace, count: int, seed: int) -> list[Candidate]:
    """Candidates of all sizes: a ratio for the network, and around it one for each group; all distinct where they can be."""
    rng = np.random.default_rng((seed, 5))
    full = np.array(space.full.widths, dtype=np.float64)
    found: dict[Candidate, None] = {}
    for _ in range(20 * count):
        ratio = rng.uniform(0.1, 1) * np.exp(rng.uniform(-0.4, 0.4, len(full)))
        found.setdefault(space.snap(full * np.minimum(ratio, 1)))
        if len(found) == count:
            break
    return [*found, *[space.full] * (count - len(found))]
