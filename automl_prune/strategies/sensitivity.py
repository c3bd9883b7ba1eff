"""Sensitivity: measure what cutting each group alone costs, then find the best widths on those curves under the budget.

*Measuring.* With every other group full, one group at a time is cut to a few widths (``grid: bisect`` halves where the curve
matters most for this budget; ``scan`` goes from narrow to wide as FastNAS does). These trials declare it in their origin, as
they lie outside the budget as a rule. A trial is a measurement if its candidate differs from the full network in at most one
group, whoever asked for it: a strategy that is told the trials of an earlier search, or recalls what the cache holds of it,
has that search's map, and asks only for what is missing. *Solving.* Drops add up over groups; the widths of least total drop
are found under the true costs (``solver: knapsack``), or no group may drop by more than one threshold (``threshold``).
*Exploring.* What is left of the trials goes to exchanges around the best network measured so far, guided by randomly tilted
curves: drops do not really add up, and the curves are noisy.

``published`` is FastNAS: its scan with its early stop, its threshold and no trial after that. Its divisor of widths, 32, is
the search space's ``round_to``. Its ratios go in steps of 0.05, which takes up to 19 trials per group and one for the full
network; where the search has fewer, the steps are larger: at 100 trials each of 27 groups is measured at a third and at two
thirds of its width.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field

from automl_prune.errors import BudgetError
from automl_prune.problem import FloatArray, Problem
from automl_prune.space import Candidate
from automl_prune.strategies._curves import drop_curves, noise_of
from automl_prune.strategies._knapsack import WidthSolver
from automl_prune.strategies.base import MEASURES, STRATEGIES, Proposal, Strategy, StrategyOptions
from automl_prune.trial import Trial, TrialState

COARSE = (0.5, 0.25, 0.75)
"""Where each group is measured first, from its narrowest (0) to its full width (1)."""
NO_DROP = 1e-5
"""Drop below which FastNAS measures no wider choice of a group."""
RELEVANT = 2.0
"""Drops above this many thresholds of the budget are all alike: no good network has them."""
REDRAWS = 8
"""Tilted curves tried for a network that was not asked for before; random ones follow."""

Widths = tuple[int, ...]


class SensitivityOptions(StrategyOptions):
    """Options of the sensitivity search."""

    solver: Literal["knapsack", "threshold"] = Field(
        "knapsack", description="knapsack: least total drop. threshold: the same largest drop for every group, as FastNAS."
    )
    grid: Literal["bisect", "scan"] = Field(
        "bisect", description="bisect: refine where it matters. scan: even ratios, narrow to wide, until nothing is lost."
    )
    points: int = Field(
        6, ge=1, le=256, description="Widths measured per group on average, the full one not counted; with scan, its steps."
    )
    share: float = Field(0.6, gt=0, le=1, description="Most of the search's trials that may measure.")
    metric: Literal["objective", "loss"] = Field(
        "objective", description="What the curves measure; loss is less noisy than an accuracy on few images."
    )
    noise: float | None = Field(
        None, ge=0, description="Standard error of a measured drop; null estimates it from curves that run the wrong way."
    )
    reuse: bool = Field(
        True, description="Take over what earlier searches with the same weights, images, recipe and seed measured."
    )
    explore: bool = Field(True, description="Try the uniform width first and exchanges around the best afterwards.")
    spread: float = Field(0.5, gt=0, le=5, description="Standard deviation of the logarithm that tilts curves in exploring.")


@STRATEGIES.register("sensitivity")
class Sensitivity(Strategy):
    """Per-group drop curves and the best widths on them; see the module for the presets."""

    name = "sensitivity"
    help = "Measures each group alone, then solves for the best widths under the budget."
    paper = "FastNAS in NVIDIA Model Optimizer; knapsack after Kellerer, Pferschy and Pisinger 2004"
    Options = SensitivityOptions
    presets = {
        "modern": {},
        "published": {
            "solver": "threshold", "grid": "scan", "points": 20, "share": 1.0, "noise": 0.0, "explore": False,
        },
    }  # fmt: skip
    default_preset = "modern"
    default_recipe = {
        "modern": {"inherit": "l1", "recalibrate_batches": 20},
        "published": {"inherit": "l2", "recalibrate_batches": 20},
    }
    options: SensitivityOptions

    def __init__(self, problem: Problem, options: SensitivityOptions, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        self.solver = WidthSolver(problem)
        self.tried: dict[Widths, None] = {}
        self.open: dict[Widths, bool] = {}
        self.measured = 0
        self.reference: float | None = None
        self.cuts: list[dict[int, float | None]] = [{} for _ in problem.space.names]
        self.best: tuple[float, Widths] | None = None
        self.exhausted = False
        self._full = problem.space.full.widths
        self._curves: list[FloatArray] | None = None
        self._solved: list[tuple[str, Candidate]] | None = None

    # The conversation ------------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The uniform width, measurements, solutions and neighbours of the best, in this order."""
        proposal = self._first(rng) or self._measurement()
        if proposal is None and not any(self.open.values()):
            proposal = self._solution() or (self._nearby(rng) if self._explores else None)
            self.exhausted = proposal is None and (not self.open or self._settled)
        if proposal is not None:
            widths = proposal.candidate.widths
            self.tried[widths], self.open[widths] = None, MEASURES in proposal.origin
            self.measured += self._is_cut(widths)
            self._enter(widths, None)
        return proposal

    @property
    def _settled(self) -> bool:
        """Whether nothing more is wanted than a solution that was scored."""
        return not self.options.explore and self.best is not None

    @property
    def _explores(self) -> bool:
        """Whether neighbours are to be tried: also where the solution failed."""
        return self.options.explore or (self.best is None and not self.open)

    def tell(self, trial: Trial) -> None:
        """Add to the map if at most one group is cut; a better network within the budgets is explored around."""
        if trial.candidate not in self.problem.space:
            return
        widths = trial.candidate.widths
        self.open.pop(widths, None)
        score = self._score(trial.metrics) if trial.state is TrialState.COMPLETE else None
        if score is None:
            return
        self._enter(widths, self._mapped(trial.metrics))
        if (self.best is None or score > self.best[0]) and self.problem.meets(trial.candidate, trial.metrics):
            self.best = (score, widths)

    @property
    def wants_measured(self) -> bool:
        """Whether it has a map that earlier searches may have drawn."""
        return self.options.reuse and self.options.share > 0

    def recall(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """Add to the map alone: what was not scored in this search cannot be its best."""
        if (value := self._mapped(metrics)) is not None:
            self._enter(candidate.widths, value)

    @property
    def finished(self) -> bool:
        """Whether the solution was asked for and nothing is to be explored, or no further network fits."""
        return self.exhausted

    # The map ---------------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Most measurements it may ask for, the full network's among them."""
        most = self._points
        if self.trials is not None:
            most = min(most, int(self.options.share * self.trials), self.trials - 1 - self.options.explore)
        return most if most > 1 else 0

    @property
    def _points(self) -> int:
        """Most measurements in the map, those of earlier searches among them."""
        return 1 + self.options.points * len(self._full)

    @property
    def curves(self) -> list[FloatArray]:
        """Drops at every choice of every group, as far as they are known."""
        if self._curves is None:
            self._curves = drop_curves(self.problem.space.choices, self._drops(), noise=self.options.noise)
        return self._curves

    def _drops(self) -> list[dict[int, float]]:
        """Measured drops by group and width; against the best score of the map while the full network's is missing."""
        known = [{w: v for w, v in group.items() if v is not None} for group in self.cuts]
        top = self.reference if self.reference is not None else max((max(g.values()) for g in known if g), default=0.0)
        return [{w: top - v for w, v in group.items()} for group in known]

    def _measurement(self) -> Proposal | None:
        """The next measurement; None when all were asked for, or the next depends on one in flight."""
        known = self.reference is not None or self._full in self.tried
        if self.measured >= self.limit or sum(map(len, self.cuts)) + known >= self._points:
            return None
        if not known:
            return Proposal(self.problem.space.full, {"phase": "measure", MEASURES: {"group": None}})
        point = self._scanned() if self.options.grid == "scan" else self._coarse() or self._refined()
        if point is None:
            return None
        group, width = point
        origin = {"phase": "measure", MEASURES: {"group": self.problem.space.names[group], "width": width}}
        return Proposal(self._cut(group, width), origin)

    def _coarse(self) -> tuple[int, int] | None:
        """The first places of each group, those whose cut saves most first."""
        for part in COARSE:
            missing = []
            for g, choices in enumerate(self.problem.space.choices):
                width = _nearest(choices[:-1], choices[0] + part * (choices[-1] - choices[0]))
                if width is not None and width not in self.cuts[g]:
                    missing.append((g, width))
            if missing:
                rows = self.problem.space.array([self._cut(g, w) for g, w in missing])
                costs, full = self.problem.cost(rows), self.problem.costs(self.problem.space.full)
                metrics = {b.metric for b in self.problem.budgets} or set(costs)
                left = np.sum([costs[m] / max(full[m], 1e-9) for m in sorted(metrics)], axis=0)
                return missing[int(np.argmin(left))]
        return None

    def _refined(self) -> tuple[int, int] | None:
        """Inside the widest unknown: the interval with the largest product of width and drop, up to relevant drops."""
        threshold = self.solver.threshold(self.curves)
        drops = [c[list(own).index(w)] for c, own, w in
                 zip(self.curves, self.problem.space.choices, threshold.widths, strict=True)]  # fmt: skip
        cap = RELEVANT * float(max(drops))
        noise = self.options.noise if self.options.noise is not None else noise_of(self.problem.space.choices, self._drops())
        best, chosen = 0.0, None
        for g, low, high in self._intervals():
            choices, curve = self.problem.space.choices[g], self.curves[g]
            ends = [min(float(curve[choices.index(w)]), cap) for w in (low, high)]
            area = (ends[0] - ends[1]) * (high - low) / choices[-1]
            if area <= best or ends[0] - ends[1] <= max(2 * noise, 1e-3 * cap):
                continue
            inner = [w for w in choices if low <= w < high and w not in self.cuts[g]]
            width = _nearest(inner, (low + high) / 2)
            if width is not None:
                best, chosen = area, (g, width)
        return chosen

    def _intervals(self) -> Iterator[tuple[int, int, int]]:
        """Neighbouring widths of known drop, group by group, without those that a measurement in flight divides."""
        for g, choices in enumerate(self.problem.space.choices):
            flying = {w[g] for w in self.open if self._is_cut(w)}
            known = sorted({choices[0], choices[-1], *(w for w, v in self.cuts[g].items() if v is not None)})
            for low, high in pairwise(known):
                if not any(low <= w < high for w in flying):
                    yield g, low, high

    def _scanned(self) -> tuple[int, int] | None:
        """The next wider step of the group scanned least, as long as no narrower one lost nothing."""
        steps = max(1, min(self.options.points, (self.limit - 1) // len(self._full)))
        drops, candidates = self._drops(), []
        for g, choices in enumerate(self.problem.space.choices):
            ratios = [i / steps for i in range(1, steps)] or [0.5]
            grid = sorted({w for r in ratios if (w := _nearest(choices[:-1], r * choices[-1])) is not None})
            asked = [w for w in grid if w in self.cuts[g]]
            lossless = min((w for w in asked if drops[g].get(w, 1.0) < NO_DROP), default=choices[-1])
            left = [w for w in grid if w not in self.cuts[g] and w < lossless]
            waits = bool(asked) and self._cut(g, asked[-1]).widths in self.open
            if left and not waits and self._full not in self.open:
                candidates.append((len(asked), g, left[0]))
        return min(candidates)[1:] if candidates else None

    # Networks within the budget --------------------------------------------------------------------------------------

    def _first(self, rng: np.random.Generator) -> Proposal | None:
        """The uniform width before everything else, so that there is a network whenever the search ends."""
        if self.asked or not self.options.explore:
            return None
        uniform = self.problem.widest_uniform
        known = self.problem.is_feasible(uniform)
        return Proposal(uniform if known else self.problem.sample(rng)[1], {"phase": "uniform"})

    def _solution(self) -> Proposal | None:
        """The solver's answers on the curves as they are now, unless they were tried."""
        if self._solved is None:
            self._solved = [("threshold", self.solver.threshold(self.curves))]
            if self.options.solver == "knapsack":
                self._solved.insert(0, ("knapsack", self.solver.knapsack(self.curves)))
        for name, candidate in self._solved:
            if candidate.widths not in self.tried:
                return Proposal(candidate, {"phase": "solution", "solver": name})
        return None

    def _nearby(self, rng: np.random.Generator) -> Proposal | None:
        """A new network a few exchanges from the best, on tilted curves; at last a random one, or None if that is known."""
        centre = Candidate(self.best[1]) if self.best else self.solver.threshold(self.curves)
        for draw in range(REDRAWS):
            tilt = np.exp(self.options.spread * (1 + draw / 2) * rng.standard_normal(len(self._full)))
            tilted = [t * curve for t, curve in zip(tilt, self.curves, strict=True)]
            found = self._varied(centre, tilted, rng) if draw % 2 else self.solver.improve(centre, tilted, rounds=2)
            if found.widths not in self.tried and self.problem.is_feasible(found):
                return Proposal(found, {"phase": "nearby", "of": list(centre.widths)})
        for _ in range(REDRAWS):
            try:
                found = self.problem.sample(rng)[1]
            except BudgetError:
                return None
            if found.widths not in self.tried:
                return Proposal(found, {"phase": "random"})
        return None

    def _varied(self, centre: Candidate, losses: list[FloatArray], rng: np.random.Generator) -> Candidate:
        """The centre with one group at another width, near its own, and the others adapted to it."""
        group = int(rng.integers(len(self._full)))
        choices = self.problem.space.choices[group]
        here = choices.index(centre.widths[group])
        to = here + int(rng.choice([-1, 1])) * int(rng.integers(1, 2 + len(choices) // 4))
        return self.solver.adapted(centre, group, choices[min(max(to, 0), len(choices) - 1)], losses, rounds=2)

    # Bookkeeping -----------------------------------------------------------------------------------------------------

    def _cut(self, group: int, width: int) -> Candidate:
        return Candidate((*self._full[:group], width, *self._full[group + 1 :]))

    def _is_cut(self, widths: Widths) -> bool:
        """Whether at most one group is cut."""
        return sum(w != full for w, full in zip(widths, self._full, strict=True)) <= 1

    def _enter(self, widths: Widths, value: float | None) -> None:
        """Enter into the map what was measured, or, with None, that it was asked for; other networks do not belong there.

        With a value, the curves and what was solved on them are out of date.
        """
        if not self._is_cut(widths):
            return
        if widths == self._full:
            self.reference = self.reference if value is None else value
        for g, (w, full) in enumerate(zip(widths, self._full, strict=True)):
            if w != full:
                self.cuts[g][w] = self.cuts[g].get(w) if value is None else value
        if value is not None:
            self._curves = self._solved = None

    def _score(self, metrics: Mapping[str, float]) -> float | None:
        """The objective, higher is better; None where it is missing."""
        objective = self.problem.objectives[0]
        return _signed(metrics, objective.metric, maximize=objective.maximize)

    def _mapped(self, metrics: Mapping[str, float]) -> float | None:
        """What the curves measure, higher is better; None where it is missing."""
        return self._score(metrics) if self.options.metric == "objective" else _signed(metrics, "loss", maximize=False)

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The map, the networks tried and those in flight, as JSON data."""
        return super().state_dict() | {
            "tried": [list(widths) for widths in self.tried],
            "open": [[list(widths), measures] for widths, measures in self.open.items()],
            "reference": self.reference,
            "cuts": [[[w, value] for w, value in group.items()] for group in self.cuts],
            "best": None if self.best is None else [self.best[0], list(self.best[1])],
            "exhausted": self.exhausted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.tried = {tuple(widths): None for widths in state["tried"]}
        self.open = {tuple(widths): measures for widths, measures in state["open"]}
        self.measured = sum(map(self._is_cut, self.tried))
        self.reference, self.exhausted = state["reference"], state["exhausted"]
        self.cuts = [dict(map(tuple, group)) for group in state["cuts"]]
        self.best = None if state["best"] is None else (state["best"][0], tuple(state["best"][1]))
        self._curves = self._solved = None


def _signed(metrics: Mapping[str, float], metric: str, *, maximize: bool) -> float | None:
    """A metric, higher is better; None where it is missing."""
    return float(metrics[metric]) * (1 if maximize else -1) if metric in metrics else None


def _nearest(choices: Sequence[int], width: float) -> int | None:
    """The one of ascending ``choices`` nearest to ``width``, the wider of two; None where there are none."""
    above = bisect_left(choices, width)
    around = choices[max(above - 1, 0) : above + 1]
    return min(around, key=lambda w: (abs(w - width), -w), default=None)
