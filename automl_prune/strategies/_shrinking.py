"""Shrinking a network one group at a time: targets for its costs, and the widest cuts that meet them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from automl_prune.errors import FieldError, SpecError
from automl_prune.problem import AT_ONCE, BoolArray, FloatArray, IntArray, Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import StrategyOptions

MOST_ITERATIONS = 10_000
"""A schedule that takes longer counts as never reaching its budget."""
HALVINGS = 40
"""How often a reduction is halved to find a group that can meet it."""
EXACT = 1e-9
"""Tolerance in comparing sums of reductions with a budget."""

Widths = tuple[int, ...]
Cut = tuple[int, Widths]
"""A group, and the widths with that group cut."""


class ScheduleOptions(StrategyOptions):
    """By how much costs fall from iteration to iteration."""

    schedule: Literal["decay", "ratio"] = Field(
        "decay", description="Reductions are parts of the full network's cost (decay), or of the cost reached (ratio)."
    )
    initial_reduction: float = Field(0.03, gt=0, lt=1, description="The first iteration's reduction, as such a part.")
    decay: float = Field(0.98, gt=0, le=1, description="What a reduction is multiplied by after each iteration.")
    clamp: bool = Field(False, description="Let no target lie below a budget; a candidate may then reach it exactly.")

    def reduction(self, iteration: int) -> float:
        """The reduction of an iteration, counted from 1."""
        return float(self.initial_reduction * self.decay ** (iteration - 1))

    def left_after(self, left: float, iteration: int) -> float:
        """Which part of a cost an iteration leaves if its target is met exactly and ``left`` is what it found."""
        return left - self.reduction(iteration) * (left if self.schedule == "ratio" else 1.0)

    def iterations(self, ratio: float) -> int | None:
        """Iterations until ``ratio`` of a cost is left if every target is met exactly; None for never."""
        left = 1.0
        for iteration in range(1, MOST_ITERATIONS + 2):
            if left <= ratio + EXACT:
                return iteration - 1
            left = self.left_after(left, iteration)
        return None

    @property
    def floor(self) -> float:
        """Which part of a cost would be left after infinitely many iterations, at least 0."""
        if self.decay == 1:
            return 0.0
        left = 1.0
        for iteration in range(1, MOST_ITERATIONS + 1):
            left = self.left_after(left, iteration)
        rest = self.reduction(MOST_ITERATIONS + 1) / (1 - self.decay)
        return max(0.0, left * math.exp(-rest) if self.schedule == "ratio" else left - rest)

    def least_reduction(self, ratio: float) -> float:
        """The initial reduction, a part of the full cost, from which on ``ratio`` is left in time."""
        if self.decay == 1:
            return (1 - ratio) / MOST_ITERATIONS
        return (1 - ratio) * (1 - self.decay) / (1 - self.decay**MOST_ITERATIONS)


class Shrinker:
    """The cuts that a schedule allows.

    Args:
        problem: What is searched. Where a budget is on a cost that does not grow with widths, every cut is looked at.
        schedule: By how much its costs fall.

    Raises:
        SpecError: The schedule cannot reach a budget.
    """

    def __init__(self, problem: Problem, schedule: ScheduleOptions) -> None:
        self.problem, self.schedule = problem, schedule
        self.full = problem.costs(problem.space.full)
        self.bounds = {b.metric: b.max for b in problem.budgets if b.max < float("inf")}
        for metric in self.bounds:
            self._check_reachable(metric, self._ratio(metric))

    def is_met(self, widths: Widths) -> bool:
        """Whether no maximum is exceeded."""
        return bool(self.problem.excess(np.array([widths], dtype=np.int64))[0] <= 0)

    def cuts(self, widths: Widths, iteration: int) -> tuple[list[Cut], dict[str, float]]:
        """Every group's widest cut that meets the iteration's targets, and these targets by metric.

        The reduction is halved where no group alone can meet it; there is no cut where nothing can become narrower, or only
        below a minimum.
        """
        choices = self.problem.space.choices
        starts = np.array([own.index(w) for own, w in zip(choices, widths, strict=True)], dtype=np.int64)
        groups, places = self._judged(starts)
        if not len(groups):
            return [], {}
        costs, kept = self._results(widths, groups, places)
        targets = self.targets(widths, self.schedule.reduction(iteration))
        for halved in range(HALVINGS):
            if (met := kept & self._meets(costs, targets)).any():
                break
            targets = self.targets(widths, self.schedule.reduction(iteration) * 0.5 ** (halved + 1))
        groups, places = groups[met], places[met]
        if self.problem.monotone:
            places = self._bisected(widths, groups, starts[groups], targets)
        else:
            widest = np.flatnonzero(np.diff(groups, append=-1))
            groups, places = groups[widest], places[widest]
        rows = self._rows(widths, groups, places)
        allowed = self.problem.shortfall(rows) <= 0
        cut = zip(groups.tolist(), rows.tolist(), allowed, strict=True)
        return [(group, tuple(row)) for group, row, good in cut if good], targets

    def _judged(self, starts: IntArray) -> tuple[IntArray, IntArray]:
        """Groups and places of the cuts that tell what can be met: the narrowest of each group, or all in their order."""
        able = np.flatnonzero(starts)
        if self.problem.monotone:
            return able, np.zeros_like(able)
        return np.repeat(able, starts[able]), np.concatenate([np.arange(0), *(np.arange(starts[g]) for g in able)])

    def _results(self, widths: Widths, groups: IntArray, places: IntArray) -> tuple[dict[str, FloatArray], BoolArray]:
        """Costs of cuts, and which keep to minima and to maxima that are met already, where cuts can exceed these."""
        reached = self.problem.costs(Candidate(widths))
        held = {metric: bound for metric, bound in self.bounds.items() if reached[metric] <= bound}
        costs, kept = [], []
        for start in range(0, len(groups), AT_ONCE):
            rows = self._rows(widths, groups[start : start + AT_ONCE], places[start : start + AT_ONCE])
            costs.append(found := self._costs(rows))
            keeps = np.ones(len(rows), dtype=bool)
            if not self.problem.monotone:
                keeps &= self.problem.shortfall(rows) <= 0
                for metric, bound in held.items():
                    keeps &= found[metric] <= bound
            kept.append(keeps)
        return {metric: np.concatenate([c[metric] for c in costs]) for metric in self.bounds}, np.concatenate(kept)

    def _bisected(self, widths: Widths, groups: IntArray, starts: IntArray, targets: Mapping[str, float]) -> IntArray:
        """The place of each group's widest cut that meets the targets, where its narrowest does and costs grow."""
        low, high = np.zeros_like(groups), starts
        while (high - low > 1).any():  # the choice at low meets the targets, the one at high does not
            middle = (low + high) // 2
            met = self._meets(self._costs(self._rows(widths, groups, middle)), targets)
            low, high = np.where(met, middle, low), np.where(met, high, middle)
        return low

    def targets(self, widths: Widths, reduction: float) -> dict[str, float]:
        """What the cost in every metric whose budget is not met is to fall below."""
        reached, targets = self.problem.costs(Candidate(widths)), {}
        for metric, bound in self.bounds.items():
            if reached[metric] > bound:
                whole = self.full[metric] if self.schedule.schedule == "decay" else reached[metric]
                target = reached[metric] - reduction * whole
                targets[metric] = max(target, bound) if self.schedule.clamp else target
        return targets

    def savings(self, widths: Widths, others: Sequence[Widths]) -> list[float]:
        """What each of ``others`` saves against ``widths``, in parts of the full costs, over the budgets not met there."""
        before, after = self.problem.costs(Candidate(widths)), self._costs(np.array(others, dtype=np.int64))
        metrics = [m for m, bound in self.bounds.items() if before[m] > bound]
        saved = sum(((before[m] - after[m]) / self.full[m] for m in metrics), np.zeros(len(others)))
        return [float(s) for s in saved]

    def sizes(self, widths: Widths | None = None, first: int = 1) -> Iterator[int]:
        """Cuts to try in each iteration from the ``first`` on, if every time the one that saves least is taken.

        ``widths`` are those it begins with, by default the full network's. There is one iteration at least, and each is
        worked out only when it is asked for.
        """
        widths = widths or self.problem.space.full.widths
        for iteration in range(first, first + MOST_ITERATIONS):
            met = self.is_met(widths)
            found = [] if met else self.cuts(widths, iteration)[0]
            if not met or iteration == first:
                yield max(1, len(found))
            if not found:
                return
            widths = found[int(np.argmin(self.savings(widths, [w for _, w in found])))][1]

    @property
    def iterations(self) -> int:
        """Iterations until all budgets are met if every target is met exactly."""
        return max((self.schedule.iterations(self._ratio(metric)) or 0 for metric in self.bounds), default=0)

    def _meets(self, costs: Mapping[str, FloatArray], targets: Mapping[str, float]) -> BoolArray:
        """Which costs lie below all targets; one that is the budget itself may be reached."""
        met = np.ones(len(next(iter(costs.values()))), dtype=bool)
        for metric, target in targets.items():
            reaches = self.schedule.clamp and target == self.bounds[metric]
            met &= costs[metric] <= target if reaches else costs[metric] < target
        return met

    def _costs(self, rows: IntArray) -> Mapping[str, FloatArray]:
        found = self.problem.cost(rows)
        return {metric: found[metric] for metric in self.bounds}

    def _rows(self, widths: Widths, groups: IntArray, places: IntArray) -> IntArray:
        """The widths with one group each at the choice of that place, ``[groups, all groups]``."""
        rows = np.tile(np.asarray(widths, dtype=np.int64), (len(groups), 1))
        choices = self.problem.space.choices
        rows[np.arange(len(groups)), groups] = [choices[g][p] for g, p in zip(groups, places, strict=True)]
        return rows

    def _ratio(self, metric: str) -> float:
        """Which part of the full cost the budget is."""
        return self.bounds[metric] / self.full[metric] if self.full[metric] else 1.0

    def _check_reachable(self, metric: str, ratio: float) -> None:
        schedule = self.schedule
        if schedule.iterations(ratio) is not None:
            return
        enough = f"{_at_least(schedule.least_reduction(ratio))} or more" if schedule.schedule == "decay" else "a larger one"
        if (floor := schedule.floor) > ratio:
            ends = f"{100 * floor:.4g} % of {metric} are left in the end"
            enough += ", or a decay nearer to 1"
        else:
            ends = f"it takes more than {MOST_ITERATIONS:,} iterations until {metric} are low enough"
        said = (
            f"With reductions of {schedule.initial_reduction:g}, each {schedule.decay:g} times the one before, {ends}, and "
            f"the budget is {100 * ratio:.4g} %. Use {enough}."
        )
        raise SpecError([FieldError("/strategy/options/initial_reduction", said, "unreachable_schedule")])


def _at_least(number: float) -> str:
    """A positive number in three digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return f"{math.ceil(number / unit - EXACT) * unit:.3g}"
