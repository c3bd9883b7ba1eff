"""What is searched for: a space, objectives, budgets and the cost of every candidate. All that a strategy may see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from automl_prune.errors import BudgetError
from automl_prune.space import Candidate, ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
TRIES = 200
"""Draws after which budgets count as excluding each other."""

CostFunction = Callable[[IntArray], Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Objective:
    """A metric that evaluation reports, and its direction."""

    metric: str = "top1"
    maximize: bool = True


@dataclass(frozen=True)
class Budget:
    """Bounds on one cost metric, in absolute terms; ``max`` is inclusive, and so is ``min``."""

    metric: str
    max: float = float("inf")
    min: float = 0.0


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

    def excess(self, widths: IntArray) -> FloatArray:
        """Largest relative overshoot over the maxima, ``[candidates]``; at most 0 where all hold."""
        return self._worst(widths, lambda b, cost: cost / b.max - 1 if b.max < float("inf") else np.full(cost.shape, -1.0))

    def shortfall(self, widths: IntArray) -> FloatArray:
        """Largest relative undershoot below the minima, ``[candidates]``; at most 0 where all hold."""
        return self._worst(widths, lambda b, cost: 1 - cost / b.min if b.min > 0 else np.full(cost.shape, -1.0))

    def check_reachable(self) -> None:
        """Raise BudgetError, naming the reachable range, when a budget cannot be met by any candidate."""
        ends = self.cost(self.space.array([self.space.narrowest, self.space.full]))
        for i, budget in enumerate(self.budgets):
            low, high = (float(x) for x in ends[budget.metric])
            if budget.max < low:
                raise BudgetError(
                    f"{budget.metric} of at most {budget.max:,.6g} cannot be reached: the narrowest network of this space "
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

        Without ``grow`` the factor is at most 1: what already fits comes back unchanged. Costs grow with every width, so two
        passes over a fine grid of factors find it; at factor 0 the narrowest candidate is left.
        """
        if not any(b.max < float("inf") for b in self.budgets):
            return candidate
        widths = np.asarray(candidate.widths, dtype=np.float64)
        low, high = 0.0, float(np.max(np.asarray(self.space.full.widths) / widths)) if grow else 1.0
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

    def fill(self, candidate: Candidate) -> Candidate:
        """The candidate widened, a choice at a time and group after group, until every minimum is met.

        No step exceeds a maximum; where steps run out, what was reached comes back.
        """
        widths, space = list(candidate.widths), self.space
        moved = True
        while moved and self.shortfall(space.array([Candidate(tuple(widths))]))[0] > 0:
            moved = False
            for g, choices in enumerate(space.choices):
                wider = next((w for w in choices if w > widths[g]), None)
                trial = [*widths[:g], wider, *widths[g + 1 :]] if wider is not None else widths
                if wider is not None and self.excess(np.array([trial], dtype=np.int64))[0] <= 0:
                    widths, moved = trial, True
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


def best_trials(problem: Problem, scored: Sequence[tuple[Candidate, Mapping[str, float]]], count: int) -> list[int]:
    """Indices of the ``count`` best distinct feasible candidates, best first; ties: fewer channels, then the earlier."""
    seen: set[Candidate] = set()
    order: list[int] = []
    ranked = sorted(range(len(scored)), key=lambda i: (problem.losses(scored[i][1])[0], sum(scored[i][0].widths), i))
    for i in ranked:
        candidate = scored[i][0]
        if candidate not in seen and problem.is_feasible(candidate):
            seen.add(candidate)
            order.append(i)
    return order[:count]
