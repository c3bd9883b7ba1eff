"""Latency budgets of one search: predicted for every candidate, measured for the leaders and for what is handed out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from automl_prune.architecture import Architecture
from automl_prune.errors import BudgetError, DeviceError, FieldError, SpecError
from automl_prune.latency.building import DeviceLatency, Gauge, build, full_network, known
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.cost import LATENCY, metric_on
from automl_prune.latency.devices import LOCAL, Device, LocalDevice
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.loop.spec import BudgetSpec, SearchSpec
from automl_prune.loop.standing import SEARCH
from automl_prune.networks import NetworkDefinition
from automl_prune.problem import Budget
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.trial import Outcome, Trial, TrialState

MOST_MEASURED = 40
"""Leaders of one arm that are measured at most while those within the budgets are looked for."""

MEASURED_ARMS = (SEARCH, "random")
"""Arms of many candidates, of which too slow ones are left out; single networks go on, and are told as measured."""

DeviceLookup = Callable[[str], Device]
"""Devices other than this machine, by name; raises DeviceError for one that is unknown or not heard of."""
Progress = Callable[[str, int, int], None]
"""Called with a device's name and how much of what it has to time is done, of how much."""


def only_local(name: str) -> Device:
    """The lookup of a process that no other devices are registered with."""
    raise DeviceError(f"No device is called {name!r}; here is only {LOCAL!r}.")


def quietly(device: str, done: int, of: int) -> None:
    """Say nothing about progress."""


@dataclass(frozen=True)
class Timed:
    """What is timed: a network and its space, and where what was timed is kept."""

    network: NetworkDefinition
    num_classes: int
    architecture: Architecture
    space: ChannelSpace
    folder: Path

    def here(self) -> LocalDevice:
        """This machine, with the network at hand."""
        network = TracedNetwork(partial(self.network.build, self.num_classes), self.architecture)
        return LocalDevice({self.network.name: network}, lock=self.folder / "local.lock")


@dataclass
class Latencies:
    """The devices that budget one search.

    Attributes:
        budgets: The ordered ones, with their devices; the search itself keeps a margin to them.
        gauges, devices: What measures, and what predicts, by device.
    """

    budgets: Mapping[str, Budget]
    gauges: Mapping[str, Gauge]
    devices: Mapping[str, DeviceLatency]
    _within: dict[Candidate, bool] = field(default_factory=dict, repr=False)

    def measure(self, candidate: Candidate) -> dict[str, float]:
        """Milliseconds by device; measured once, however often it is asked for."""
        return {name: float(gauge.measure([candidate])[0]) for name, gauge in self.gauges.items()}

    def predict(self, candidate: Candidate) -> dict[str, float]:
        """Milliseconds by device, from the tables."""
        return {
            name: float(found.model(self.gauges[name].space.array([candidate]))[0]) for name, found in self.devices.items()
        }

    def within(self, candidate: Candidate) -> bool:
        """Whether what was measured of a candidate meets every ordered budget."""
        if candidate not in self._within:
            taken = self.measure(candidate)
            self._within[candidate] = all(b.min <= taken[name] <= b.max for name, b in self.budgets.items())
        return self._within[candidate]

    def judge(self, trial: Trial, outcome: Outcome) -> Outcome:
        """An outcome with the candidate's latencies among its metrics.

        They are predicted where predictions are trusted, else measured; one that then turns out too slow is infeasible.
        """
        if outcome.state is not TrialState.COMPLETE:
            return outcome
        taken = self.predict(trial.candidate)
        doubted = [name for name, found in self.devices.items() if not found.trusted]
        if doubted:
            measured = self.measure(trial.candidate)
            taken |= {name: measured[name] for name in doubted}
        outcome = replace(outcome, metrics={**outcome.metrics, **{metric_on(name): ms for name, ms in taken.items()}})
        slow = [name for name in doubted if taken[name] > self.budgets[name].max]
        if trial.arm not in MEASURED_ARMS or not slow:
            return outcome
        name = slow[0]
        said = f"It takes {taken[name]:.4g} ms on {name!r}, measured; the budget is {self.budgets[name].max:.4g} ms."
        return replace(outcome, state=TrialState.INFEASIBLE, reason=said)

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """What a result says of one network: measured milliseconds by device, and the measurement with its prediction."""
        measured, predicted = self.measure(candidate), self.predict(candidate)
        details = {}
        for name, gauge in self.gauges.items():
            timing = gauge.time([gauge.work(candidate)])[0]
            details[name] = {"measured_ms": measured[name], "predicted_ms": predicted[name], **timing.to_json()}
        return {LATENCY: measured, "latency": details}

    def describe(self) -> dict[str, Any]:
        """The devices with their tables' checks, as JSON data."""
        return {name: found.to_json() for name, found in self.devices.items()}


def latency_budgets(spec: SearchSpec) -> dict[int, BudgetSpec]:
    """The latency budgets of an order, by their place; raises SpecError for two of the same device."""
    found = {i: b for i, b in enumerate(spec.budgets) if b.metric == LATENCY}
    devices = [b.device or LOCAL for b in found.values()]
    for place, (i, budget) in enumerate(found.items()):
        if (budget.device or LOCAL) in devices[:place]:
            said = f"There is a latency budget on {budget.device or LOCAL!r} already; put both bounds into one."
            raise SpecError([FieldError(f"/budgets/{i}/device", said)])
    return found


def find_latencies(
    spec: SearchSpec, timed: Timed, devices: DeviceLookup, *, now: bool, progress: Progress = quietly
) -> Latencies | None:
    """The latencies that an order's budgets need.

    Args:
        spec: The order.
        timed: The network.
        devices: Where the devices it names are looked up.
        now: Whether what is missing is timed now; else None is the answer where something is.
        progress: Called while devices are timing.

    Raises:
        DeviceError: A device is unknown, silent, or lacks the runtime.
        BudgetError: No candidate is fast enough.
        MeasurementError: A device cannot time the network.
    """
    ordered = latency_budgets(spec)
    conditions = Conditions(**spec.latency.model_dump())
    gauges: dict[str, Gauge] = {}
    for i, budget in ordered.items():
        name = budget.device or LOCAL
        try:
            device = timed.here() if name == LOCAL else devices(name)
            whole = full_network(timed.network.name, timed.num_classes, timed.architecture)
            gauges[name] = Gauge(device, conditions, whole, timed.space, timed.folder)
        except DeviceError as error:
            error.pointer = error.pointer or f"/budgets/{i}/device"
            raise
    found: dict[str, DeviceLatency] = {}
    for name, gauge in gauges.items():
        built = (
            build(gauge, timed.architecture, progress=partial(progress, name)) if now else known(gauge, timed.architecture)
        )
        if built is None:
            return None
        found[name] = built
    budgets = {b.device or LOCAL: _absolute(b, found[b.device or LOCAL], i) for i, b in ordered.items()}
    return Latencies(budgets, gauges, found)


def tightened(latencies: Latencies, places: Iterable[int]) -> dict[int, Budget]:
    """The budgets that predictions must meet, by place: below the ordered maxima by what predictions miss on average."""
    missed = {name: found.check.mape for name, found in latencies.devices.items()}
    kept = [replace(budget, max=budget.max / (1 + missed[name])) for name, budget in latencies.budgets.items()]
    return dict(zip(places, kept, strict=True))


def _absolute(budget: BudgetSpec, found: DeviceLatency, index: int) -> Budget:
    least, most = budget.bounds(found.full_ms)
    if most < found.fastest_ms:
        raise BudgetError(
            f"{LATENCY} of at most {most:.4g} on {found.device!r} cannot be reached: the fastest network of this space "
            f"takes about {found.fastest_ms:.4g} ms there, the full one {found.full_ms:.4g} ms. Raise the budget, or lower "
            f"min_ratio, round_to or frozen.",
            pointer=f"/budgets/{index}",
        )
    return Budget(metric_on(found.device), max=most, min=least, grows=False)


def drop_flat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without the latencies, which results tell by device."""
    return {name: value for name, value in metrics.items() if not name.startswith(f"{LATENCY}@")}


def first_within(latencies: Latencies | None, trials: Sequence[Trial], keep: int) -> list[Trial]:
    """The first ``keep`` of some trials, best first, whose measured latencies meet the budgets."""
    if latencies is None:
        return list(trials[:keep])
    found: list[Trial] = []
    for trial in trials[:MOST_MEASURED]:
        if len(found) == keep:
            break
        if latencies.within(trial.candidate):
            found.append(trial)
    return found
