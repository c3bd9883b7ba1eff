"""What is searched for: a space, objectives, budgets and the cost of every candidate. All that a strategy may see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from automl_prune.errors import BudgetError
from automl_prune.space import Candidate, ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)
TRIES = 200
"""Draws after which budgets count as excluding each other."""
AT_ONCE = 1024
"""Candidates whose costs are worked out at once where all of many are looked at."""
BORDER = 1e-12
"""How far beyond a border between two widths a factor is taken, relative to it."""

CostFunction = Callable[[IntArray], Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Objective:
    """A metric that evaluation reports, and its direction."""

    metric: str = "top1"
    maximize: bool = True


@dataclass(frozen=True)
class Budget:
    """Bounds on one cost metric, in absolute terms; ``max`` is inclusive, and so is ``min``.

    ``grows`` says whether the cost never falls where a group becomes wider, as counts do not: what fits can then be found by
    bisection. Latencies do fall, where a device is faster with multiples of some width.

    ``measured`` is what the metric must meet as trials report it, where costs from widths only foretell what is measured.
    """

    metric: str
    max: float = float("inf")
    min: float = 0.0
    grows: bool = True
    measured: "Budget | None" = None

    def holds(self, value: float) -> bool:
        """Whether a value is within it."""
        return self.min <= value <= self.max


@dataclass(frozen=True)
class Problem:
    """A space, what to optimise, what is allowed, and costs from widths.

    Attributes:
        space: The widths to choose from.
        cost: Maps widths ``[candidates, groups]`` to costs by metric, each ``[candidates]``.
        objectives: The first is the one single-objective strategies optimise.
        budgets: All must hold.
    """

    space: ChannelSpace
    cost: CostFunction
    objectives: tuple[Objective, ...] = (Objective(),)
    budgets: tuple[Budget, ...] = ()

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Every cost of one candidate."""
        return {name: float(values[0]) for name, values in self.cost(self.space.array([candidate])).items()}

    def feasible(self, widths: IntArray) -> BoolArray:
        """Which rows of ``widths`` ``[candidates, groups]`` meet every budget, ``[candidates]``."""
        return (self.excess(widths) <= 0) & (self.shortfall(widths) <= 0)

    def is_feasible(self, candidate: Candidate) -> bool:
        """Whether one candidate meets every budget."""
        return bool(self.feasible(self.space.array([candidate]))[0])

    def meets(self, candidate: Candidate, metrics: Mapping[str, float]) -> bool:
        """Whether a scored candidate meets every budget; by what was reported of it where that was measured."""
        told = [b for b in self.budgets if b.measured and b.metric in metrics]
        if not all(b.measured.holds(metrics[b.metric]) for b in told if b.measured):
            return False
        left = replace(self, budgets=tuple(b for b in self.budgets if b not in told)) if told else self
        return left.is_feasible(candidate)

    def excess(self, widths: IntArray) -> FloatArray:
        """Largest relative overshoot over the maxima, ``[candidates]``; at most 0 where all hold."""
        return self._worst(widths, lambda b, cost: cost / b.max - 1 if b.max < float("inf") else np.full(cost.shape, -1.0))

    def shortfall(self, widths: IntArray) -> FloatArray:
        """Largest relative undershoot below the minima, ``[candidates]``; at most 0 where all hold."""
        return self._worst(widths, lambda b, cost: 1 - cost / b.min if b.min > 0 else np.full(cost.shape, -1.0))

    @property
    def monotone(self) -> bool:
        """Whether all maxima are on costs that grow with widths, so that what is narrower than what fits fits too."""
        return all(b.grows for b in self.budgets if b.max < float("inf"))

    def check_reachable(self) -> None:
        """Raise BudgetError, naming the reachable range, when a budget cannot be met by any candidate.

        Where costs do not grow with widths, the least is that of the cheapest network found by :meth:`eased`.
        """
        ends = self.cost(self.space.array([self.eased(self.space.narrowest), self.space.full]))
        least = "narrowest network of this space" if self.monotone else "cheapest network that was found"
        for i, budget in enumerate(self.budgets):
            low, high = (float(x) for x in ends[budget.metric])
            if budget.max < low:
                raise BudgetError(
                    f"{budget.metric} of at most {budget.max:,.6g} cannot be reached: the {least} "
                    f"costs {low:,.6g} ({low / high:.3f} of the full {high:,.6g}). Raise the budget, or lower min_ratio, "
                    f"round_to or frozen.",
                    pointer=f"/budgets/{i}",
                )
            if budget.min > high:
                raise BudgetError(
                    f"{budget.metric} of at least {budget.min:,.6g} cannot be reached: the full network costs {high:,.6g}.",
                    pointer=f"/budgets/{i}",
                )
            if budget.min > budget.max:
                raise BudgetError(
                    f"{budget.metric} cannot be at least {budget.min:,.6g} and at most {budget.max:,.6g} at once.",
                    pointer=f"/budgets/{i}",
                )
        if not self.is_feasible(self.widest_uniform):
            self.sample(np.random.default_rng(0))

    @cached_property
    def widest_uniform(self) -> Candidate:
        """The widest candidate that keeps the same ratio in every group and exceeds no maximum.

        Where it misses a minimum, groups are widened one after the other until it does not.
        """
        return self.fill(self.fit(self.space.full))

    def fit(self, candidate: Candidate, *, grow: bool = False) -> Candidate:
        """The candidate with all widths scaled by one factor, the largest at which no maximum is exceeded.

        Without ``grow`` the factor is at most 1: what already fits comes back unchanged. Where costs grow with every width,
        two passes over a fine grid of factors find it; else all networks that factors make are looked at, the widest first.
        Where no factor will do, the narrowest candidate is left, eased into the maxima.
        """
        if not any(b.max < float("inf") for b in self.budgets):
            return candidate
        widths = np.asarray(candidate.widths, dtype=np.float64)
        low, high = 0.0, float(np.max(np.asarray(self.space.full.widths) / widths)) if grow else 1.0
        if not self.monotone:
            found = self.first_fitting(lambda some: self.space.snap_all(some[:, None] * widths), self._factors(widths, high))
            return found or self.eased(self.space.narrowest)
        chosen = self.space.narrowest
        for _ in range(2):
            factors = np.linspace(low, high, 257)
            scaled = self.space.snap_all(factors[:, None] * widths)
            fitting = np.flatnonzero(self.excess(scaled) <= 0)
            if not len(fitting):
                return self.space.narrowest
            last = int(fitting[-1])
            chosen = Candidate(tuple(scaled[last].tolist()))
            if last == len(factors) - 1:
                break
            low, high = float(factors[last]), float(factors[last + 1])
        return chosen

    def first_fitting(
        self, make: Callable[[npt.NDArray[Number]], IntArray], values: npt.NDArray[Number]
    ) -> Candidate | None:
        """The first of many candidates that exceeds no maximum.

        Args:
            make: Candidates ``[some, groups]`` of some of the values.
            values: ``[all]``, in the order in which they are tried.
        """
        for start in range(0, len(values), AT_ONCE):
            rows = make(values[start : start + AT_ONCE])
            fitting = np.flatnonzero(self.excess(rows) <= 0)
            if len(fitting):
                return Candidate(tuple(rows[fitting[0]].tolist()))
        return None

    def eased(self, candidate: Candidate) -> Candidate:
        """The candidate with groups widened, one by one, for as long as it exceeds a maximum and that brings it nearer.

        Where costs grow with every width, it comes back unchanged.
        """
        widths = np.asarray(candidate.widths, dtype=np.int64)
        over = float(self.excess(widths[None])[0])
        moved = not self.monotone
        while moved and over > 0:
            moved = False
            for g, choices in enumerate(self.space.choices):
                rows = self._with(widths, g, [w for w in choices if w >= widths[g]])
                excess = self.excess(rows)
                best = int(np.argmin(excess))
                if excess[best] < over:
                    widths, over, moved = rows[best], float(excess[best]), True
        return Candidate(tuple(widths.tolist()))

    def _with(self, widths: Sequence[int] | IntArray, group: int, choices: Sequence[int]) -> IntArray:
        """One row of ``widths`` for each choice of a group, ``[choices, groups]``."""
        rows = np.tile(np.asarray(widths, dtype=np.int64), (len(choices), 1))
        rows[:, group] = choices
        return rows

    def _factors(self, widths: FloatArray, high: float) -> FloatArray:
        """The factors up to ``high`` at which scaled widths become another candidate, the largest first."""
        borders = [np.add(own[1:], own[:-1]) / (2 * w) for own, w in zip(self._choices, widths, strict=True)]
        found = np.unique(np.concatenate(borders)) * (1 + BORDER)  # a little beyond, where rounding cannot undo it
        return np.concatenate([[high], found[found < high][::-1], [0.0]])

    @cached_property
    def _choices(self) -> tuple[IntArray, ...]:
        return tuple(np.asarray(c, dtype=np.int64) for c in self.space.choices)

    def fill(self, candidate: Candidate) -> Candidate:
        """The candidate widened, a choice at a time and group after group, until every minimum is met.

        No step exceeds a maximum, and choices that would are left out; where steps run out, what was reached comes back.
        """
        widths, space = list(candidate.widths), self.space
        moved = True
        while moved and self.shortfall(space.array([Candidate(tuple(widths))]))[0] > 0:
            moved = False
            for g, choices in enumerate(space.choices):
                wider = [w for w in choices if w > widths[g]]
                if not wider:
                    continue
                rows = self._with(widths, g, wider[:1] if self.monotone else wider)
                fitting = np.flatnonzero(self.excess(rows) <= 0)
                if len(fitting):
                    widths, moved = rows[fitting[0]].tolist(), True
                    if self.shortfall(np.array([widths], dtype=np.int64))[0] <= 0:
                        break
        return Candidate(tuple(widths))

    def sample(self, rng: np.random.Generator, *, fill: bool = True) -> tuple[Candidate, Candidate]:
        """A uniform draw, and the same draw scaled into every budget (up too, with ``fill``).

        Raises:
            BudgetError: None of ``TRIES`` draws could be brought into the budgets.
        """
        for _ in range(TRIES):
            drawn = Candidate(tuple(int(rng.choice(c)) for c in self.space.choices))
            fitted = self.fill(self.fit(drawn, grow=fill))
            if self.is_feasible(fitted):
                return drawn, fitted
        raise BudgetError(
            f"None of {TRIES} random candidates could be brought into all budgets at once; widen the range between min "
            f"and max, or lower round_to.",
            pointer="/budgets",
        )

    def losses(self, metrics: Mapping[str, float]) -> list[float]:
        """Objectives as numbers to minimise; raises KeyError for a metric that was not reported."""
        return [-metrics[o.metric] if o.maximize else metrics[o.metric] for o in self.objectives]

    def _worst(self, widths: IntArray, violation: Callable[[Budget, FloatArray], FloatArray]) -> FloatArray:
        if not self.budgets:
            return np.full(len(widths), -1.0)
        costs = self.cost(widths)
        worst: FloatArray = np.max([violation(b, costs[b.metric]) for b in self.budgets], axis=0)
        return worst


Loss = Callable[[Candidate, Mapping[str, float]], float]
"""What a scored candidate is ranked by, from its metrics: the less, the better."""


def best_trials(
    problem: Problem,
    scored: Sequence[tuple[Candidate, Mapping[str, float]]],
    count: int,
    *,
    loss: Loss | None = None,
) -> list[int]:
    """Indices of the ``count`` best distinct candidates within budget, best first; ties: fewer channels, then the first.

    Args:
        problem: What is searched.
        scored: Candidates with their metrics.
        count: How many at most.
        loss: What ranks them; None: the problem's first loss.
    """
    seen: set[Candidate] = set()
    order: list[int] = []
    losses = [problem.losses(metrics)[0] if loss is None else loss(candidate, metrics) for candidate, metrics in scored]
    ranked = sorted(range(len(scored)), key=lambda i: (losses[i], sum(scored[i][0].widths), i))
    for i in ranked:
        candidate, metrics = scored[i]
        if candidate not in seen and problem.meets(candidate, metrics):
            seen.add(candidate)
            order.append(i)
    return order[:count]
