"""Budgets as they are ordered, as a search keeps to them, and as JSON."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from automl_prune.costs import METRICS
from automl_prune.costs.kept import cost_model
from automl_prune.errors import FieldError, SpecError, UnknownNameError
from automl_prune.latency.cost import LATENCY, WithLatency, metric_on
from automl_prune.latency.devices import LOCAL
from automl_prune.loop.latencies import DeviceLookup, Progress, Timed, find_latencies, latency_budgets, tightened
from automl_prune.loop.measured import Latencies
from automl_prune.loop.spec import BudgetSpec, SearchSpec
from automl_prune.problem import Budget, CostFunction, FloatArray, IntArray, Problem


@dataclass(frozen=True)
class Priced:
    """What candidates cost, and what they may.

    Attributes:
        cost: Of candidates, latencies included once devices were asked.
        ordered: The budgets as they were ordered, in absolute terms.
        kept: The same as the search keeps to them: with a margin where they are met by prediction, and without latencies
            that no device has told of yet.
        latencies: The devices; None without latency budgets, and as long as something has to be timed.
    """

    cost: CostFunction
    ordered: tuple[Budget, ...]
    kept: tuple[Budget, ...]
    latencies: Latencies | None = None


def priced(spec: SearchSpec, timed: Timed, devices: DeviceLookup, *, now: bool, progress: Progress) -> Priced:
    """The budgets of an order (see :func:`~automl_prune.loop.latencies.find_latencies` for arguments and errors)."""
    cost: CostFunction = cost_model(timed.architecture, timed.space.names)
    full = {name: float(values[0]) for name, values in cost(timed.space.array([timed.space.full])).items()}
    waiting = latency_budgets(spec)
    fixed = {i: absolute(b, full, i) for i, b in enumerate(spec.budgets) if i not in waiting}
    latencies = find_latencies(spec, timed, devices, now=now, progress=progress) if waiting else None
    if latencies is None:
        ordered = fixed | {i: _unknown(b) for i, b in waiting.items()}
        return Priced(cost, tuple(ordered[i] for i in range(len(spec.budgets))), tuple(fixed.values()))
    cost = WithLatency(cost, {name: found.model for name, found in latencies.devices.items()})
    ordered = fixed | dict(zip(waiting, latencies.budgets.values(), strict=True))
    kept = fixed | tightened(latencies, waiting)
    places = range(len(spec.budgets))
    return Priced(cost, tuple(ordered[i] for i in places), tuple(kept[i] for i in places), latencies)


def check_reachable(problem: Problem, budgeted: Priced) -> None:
    """Raise BudgetError when budgets exclude each other, or one cannot be met by any candidate.

    Latencies were compared with what was measured when they became absolute: the narrowest network need not be the fastest.
    """
    found = budgeted.latencies
    if found is None:
        problem.check_reachable()
        return
    on_devices = {metric_on(name) for name in found.devices}
    counted = tuple(Budget("macs") if b.metric in on_devices else b for b in problem.budgets)
    replace(problem, budgets=counted).check_reachable()
    fastest = (device.fastest for device in found.devices.values())
    if not any(map(problem.is_feasible, [problem.widest_uniform, problem.space.narrowest, *fastest])):
        problem.sample(np.random.default_rng(0))


def absolute(budget: BudgetSpec, full: Mapping[str, float], index: int) -> Budget:
    """A budget in absolute terms; raises UnknownNameError for a metric that has no cost model."""
    if budget.metric not in full:
        raise UnknownNameError("budget metric", budget.metric, [*METRICS, LATENCY], pointer=f"/budgets/{index}/metric")
    if budget.device is not None:
        raise SpecError(
            [FieldError(f"/budgets/{index}/device", f"{budget.metric} does not depend on a device; leave device out.")]
        )
    least, most = budget.bounds(full[budget.metric])
    return Budget(budget.metric, max=most, min=least)


def rehearsed(problem: Problem, devices: Collection[str]) -> Problem:
    """The problem that a strategy can be made for before devices were asked: their latencies have names, and bind nothing.

    Whether they can be reached, and in how many trials, is not known yet.
    """

    def macs(widths: IntArray) -> FloatArray:
        return problem.cost(widths)["macs"]

    cost = WithLatency(problem.cost, dict.fromkeys(devices, macs))
    full = problem.costs(problem.space.full)["macs"]
    return replace(problem, cost=cost, budgets=(*problem.budgets, *(Budget(metric_on(name), max=full) for name in devices)))


def _unknown(budget: BudgetSpec) -> Budget:
    """A latency budget before its device was asked: what was ordered as a part of the full network's is open."""
    most = float("inf") if budget.max is None else budget.max
    return Budget(metric_on(budget.device or LOCAL), max=most, min=budget.min or 0.0, grows=False)


def budget_json(budget: Budget) -> dict[str, Any]:
    """A budget as JSON data; an open side is null."""
    metric, _, device = budget.metric.partition("@")
    return {
        "metric": metric,
        **({"device": device} if device else {}),
        "max": None if budget.max == float("inf") else budget.max,
        "min": budget.min or None,
    }
