"""Latency budgets as they are ordered: the devices are looked up and asked, and what cannot be reached is refused."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from automl_prune.architecture import Architecture
from automl_prune.errors import BudgetError, DeviceChangedError, DeviceError, FieldError, SpecError, UserError
from automl_prune.latency.building import DeviceLatency, build, full_network, known
from automl_prune.latency.conditions import Conditions, DeviceDescription, check_unchanged
from automl_prune.latency.cost import LATENCY, metric_on
from automl_prune.latency.devices import LOCAL, Device, LocalDevice, StopCheck, never_stopped
from automl_prune.latency.gauge import Gauge
from automl_prune.latency.runtimes.base import RUNTIMES
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.times import Mark
from automl_prune.loop.measured import Latencies
from automl_prune.loop.spec import BudgetSpec, LatencySpec, SearchSpec
from automl_prune.networks import NetworkDefinition
from automl_prune.problem import Budget
from automl_prune.space import ChannelSpace
from automl_prune.strict import escaped

DeviceLookup = Callable[[str], Device]
"""Devices other than this machine, by name; raises DeviceError for one that is unknown or not heard of."""
ThisMachine = Callable[[Path], Device]
"""This machine as a device, from the file that processes take turns by."""
Progress = Callable[[str, int, int], None]
"""Called with a device's name and how much of what it has to time is done, of how much."""


def only_local(name: str) -> Device:
    """The lookup of a process that no other devices are registered with."""
    raise DeviceError(f"No device is called {name!r}; here is only {LOCAL!r}.")


def quietly(device: str, done: int, of: int) -> None:
    """Say nothing about progress."""


@dataclass(frozen=True)
class Timed:
    """What is timed: a network and its space, and where what was timed is kept.

    Attributes:
        before: What an earlier driver of the same search told of its devices, by name (``DeviceLatency.to_json()``).
        local: What times on this machine; None: this process.
        check: Called before each new timing; what it raises ends the search's timings.
    """

    network: NetworkDefinition
    num_classes: int
    architecture: Architecture
    space: ChannelSpace
    folder: Path
    before: Mapping[str, Any] = field(default_factory=dict)
    local: ThisMachine | None = None
    check: StopCheck = never_stopped

    def here(self) -> Device:
        """This machine; where this process is what times, with the network at hand."""
        lock = self.folder / "local.lock"
        if self.local is not None:
            return self.local(lock)
        network = TracedNetwork(partial(self.network.build, self.num_classes), self.architecture)
        return LocalDevice({self.network.name: network}, lock, check=self.check)


def latency_budgets(spec: SearchSpec) -> dict[int, BudgetSpec]:
    """The latency budgets of an order, by their place.

    Raises:
        UnknownNameError: There is no such runtime.
        SpecError: Two are of the same device, or there are conditions on a device that none is of.
    """
    RUNTIMES.get(spec.latency.runtime, pointer="/latency/runtime")
    for name, own in spec.latency.devices.items():
        if own.runtime is not None:
            RUNTIMES.get(own.runtime, pointer=spec.latency.pointer(name, "runtime"))
    found = {i: b for i, b in enumerate(spec.budgets) if b.metric == LATENCY}
    devices = [b.device or LOCAL for b in found.values()]
    for place, (i, budget) in enumerate(found.items()):
        if (budget.device or LOCAL) in devices[:place]:
            said = f"There is a latency budget on {budget.device or LOCAL!r} already; put both bounds into one."
            raise SpecError([FieldError(f"/budgets/{i}/device", said)])
    for name in spec.latency.devices:
        if name not in devices:
            said = f"No latency budget is of {name!r}, so that nothing is timed there. Give one, or leave this out."
            raise SpecError([FieldError(f"/latency/devices/{escaped(name)}", said)])
    return found


def find_latencies(
    spec: SearchSpec, timed: Timed, devices: DeviceLookup, *, now: bool, progress: Progress = quietly
) -> Latencies | None:
    """The latencies that an order's budgets need; a search that goes on gets those that it was planned with.

    Args:
        spec: The order.
        timed: The network.
        devices: Where the devices it names are looked up.
        now: Whether what is missing is timed now; else None is the answer where something is.
        progress: Called while devices are timing.

    Raises:
        DeviceError: A device is unknown, silent, or lacks the runtime.
        DeviceChangedError: It is not what the search was planned with, or what it had timed then is not there any more.
        BudgetError: No candidate is fast enough.
        MeasurementError: A device cannot time the network.
    """
    ordered = latency_budgets(spec)
    gauges: dict[str, Gauge] = {}
    for i, budget in ordered.items():
        name = budget.device or LOCAL
        try:
            device = timed.here() if name == LOCAL else devices(name)
            whole = full_network(timed.network.name, timed.num_classes, timed.architecture)
            conditions = Conditions(**spec.latency.on(name).model_dump())
            if name in timed.before:
                _check_as_before(name, conditions, device.describe(), timed.before[name])
            gauges[name] = Gauge(device, conditions, whole, timed.space, timed.folder, check=timed.check)
        except UserError as error:
            error.pointer = _where_ordered(spec.latency, name, error.pointer) or f"/budgets/{i}/device"
            raise
    found: dict[str, DeviceLatency] = {}
    for name, gauge in gauges.items():
        built: DeviceLatency | None
        if name in timed.before:
            built = _as_before(gauge, timed.architecture, Mark(**timed.before[name]["times"]))
        elif now:
            built = build(gauge, timed.architecture, progress=partial(progress, name))
        else:
            built = known(gauge, timed.architecture)
        if built is None:
            return None
        found[name] = built
    budgets = {b.device or LOCAL: _absolute(b, found[b.device or LOCAL], i) for i, b in ordered.items()}
    in_ms = frozenset(b.device or LOCAL for b in ordered.values() if b.max is not None or b.min is not None)
    return Latencies(budgets, gauges, found, in_ms)


def _where_ordered(ordered: LatencySpec, device: str, pointer: str) -> str:
    """The pointer of a device's own condition, where it is that which an error is about."""
    head, _, field = pointer.rpartition("/")
    return ordered.pointer(device, field) if head == "/latency" else pointer


def _check_as_before(name: str, conditions: Conditions, now: DeviceDescription, before: Mapping[str, Any]) -> None:
    """Raise DeviceChangedError unless a device, and how it times, are what the search was planned with."""
    was = DeviceDescription(before["fingerprint"], {conditions.runtime: before["version"]})
    check_unchanged(name, conditions, was, now)
    if now.key(conditions) != before["times"]["key"]:
        raise DeviceChangedError(
            f"Device {name!r} has timed networks for this search in another way than this version of the package does. "
            f"Go back to the version that the search was planned with and resume it, or order it anew."
        )


def _as_before(gauge: Gauge, architecture: Architecture, mark: Mark) -> DeviceLatency:
    """The model that the search was planned with, from the same times; raises DeviceChangedError where they are gone."""
    built = known(gauge, architecture, mark)
    if built is None or built.mark != mark:
        raise DeviceChangedError(
            f"What device {gauge.device.name!r} had timed for this search is not in the cache folder any more, and other "
            f"times would make other predictions. Put that folder back and resume the search, or order it anew."
        )
    return built


def tightened(latencies: Latencies, places: Iterable[int]) -> dict[int, Budget]:
    """The budgets that predictions must meet, by place: below the ordered maxima by what predictions miss on average.

    Where predictions are not trusted, candidates are measured and that decides: there is no margin, and only what most of
    the predictions are too low or too high by is made up for. Maxima are never so low that no prediction meets them.
    """
    kept = []
    for name, budget in latencies.budgets.items():
        found = latencies.devices[name]
        margin = 1 + found.check.mape if found.trusted else found.check.bias
        most = max(budget.max / margin, found.least_predicted_ms)
        kept.append(replace(budget, max=most, measured=None if found.trusted else budget))
    return dict(zip(places, kept, strict=True))


def _absolute(budget: BudgetSpec, found: DeviceLatency, index: int) -> Budget:
    least, most = budget.bounds(found.full_ms)
    whole = f"the full network takes {found.full_ms:.4g} ms there"
    said = None
    if most < found.fastest_ms:
        ordered = f"{most:.4g}" if budget.max is not None else f"{most:.4g} ({budget.max_ratio:g} of the full network's)"
        said = (
            f"at most {ordered} on {found.device!r} cannot be reached: the fastest network of this space that was found "
            f"takes {found.fastest_ms:.4g} ms there, measured, and {whole}. Raise the budget, or lower min_ratio, round_to "
            f"or frozen."
        )
    elif least > max(found.full_ms, found.fastest_ms):
        said = f"at least {least:.4g} on {found.device!r} cannot be reached: {whole}."
    elif least > most:
        said = f"at least {least:.4g} and at most {most:.4g} on {found.device!r} exclude each other."
    if said:
        raise BudgetError(f"{LATENCY} of {said}", pointer=f"/budgets/{index}")
    return Budget(metric_on(found.device), max=most, min=least, grows=False)
