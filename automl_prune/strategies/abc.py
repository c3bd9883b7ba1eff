"""Artificial bee colony over channel counts: ABCPruner (Lin et al. 2020, arXiv 2001.08565).

A *source* is a vector of codes, one per group, in tenths of the full width. Each cycle, employed bees try a neighbour of
every source, onlookers try more neighbours of good sources, and a source that never improves is abandoned to a scout.

``published`` follows the paper's numbers (n = 3, T = 2, M = 2) and the released code's operators, one evaluation at a time.
The final training, 150 epochs on CIFAR-10, comes with no preset: the order's ``finish`` is what the best candidates get.
``corrected`` repairs what keeps that code from searching the whole space: the last group and the largest code can change,
steps round to nearest, scouts draw uniformly, a proposal never equals its parent, and the best is the best. It evaluates a
whole phase at once, and what it asks next does not depend on the order in which a phase's trials come back. ``seeded`` is
``corrected`` with the uniform width as its first source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import STRATEGIES, Opening, Proposal, Strategy, StrategyOptions
from automl_prune.trial import Trial, TrialState

Code = tuple[int, ...]
REDRAWS = 50
"""Draws of a neighbour that differs from its parent (or fits the budget) before another way out is taken."""


class ABCOptions(StrategyOptions):
    """Options of the bee colony; n, T and M are the paper's symbols."""

    population: int = Field(10, ge=2, le=10_000, description="Food sources n.")
    cycles: int = Field(
        50, ge=1, le=100_000, description="Cycles T; n + T(2n + s) evaluations, s at most one scout a cycle."
    )
    limit: int = Field(5, ge=1, le=100_000, description="Failures M after which a source is abandoned.")
    max_preserve: int = Field(10, ge=1, le=10, description="Largest code K, in tenths; scaling onto a budget may go beyond.")
    perturbed: int = Field(2, ge=1, le=4096, description="Groups that a neighbour changes.")
    include_uniform: bool = Field(False, description="Let the first source be the uniform width instead of a random one.")
    compatible: bool = Field(False, description="The released code's operators, defects included, one trial at a time.")
    over_budget: Literal["fit", "reject"] = Field(
        "fit", description="fit: scale proposals onto the budget. reject: draw again, then scale down as a last resort."
    )


@dataclass
class Source:
    """A food source: its code, fitness (None: not known, or failed) and failures since it last improved."""

    code: Code | None = None
    fitness: float | None = None
    failures: int = 0


@dataclass
class Phase:
    """A part of a cycle: the sources it visits in order, how many were asked for, and the fitness of those told."""

    name: str
    cycle: int
    schedule: list[int]
    asked: int = 0
    told: dict[int, tuple[Code, float | None]] = field(default_factory=dict)
    applied: int = 0


@STRATEGIES.register("abc")
class BeeColony(Strategy):
    """Artificial bee colony; see the module for the presets."""

    name = "abc"
    help = "Artificial bee colony over tenths of each group's width (ABCPruner)."
    paper = "Lin et al. 2020, arXiv 2001.08565"
    Options = ABCOptions
    presets = {
        "corrected": {},
        "seeded": {"include_uniform": True},
        "published": {
            "population": 3, "cycles": 2, "limit": 2, "max_preserve": 9, "compatible": True, "over_budget": "reject",
        },
    }  # fmt: skip
    default_preset = "corrected"
    default_recipe = {
        "corrected": {"inherit": "l1", "recalibrate_batches": 20},
        "seeded": {"inherit": "l1", "recalibrate_batches": 20},
        "published": {
            "inherit": "random", "scope": "convolutions", "recalibrate_batches": 0,
            "fine_tune": {"epochs": 2, "lr": 0.01, "weight_decay": 1e-4, "schedule": "constant"},
        },
    }  # fmt: skip
    options: ABCOptions

    def __init__(self, problem: Problem, options: ABCOptions, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        self.sources = [Source() for _ in range(options.population)]
        self.phase = Phase("initial", 0, list(range(options.population)))
        self.best: tuple[float, Code] | None = None
        self._full = problem.space.full.widths
        self._candidates: dict[Code, Candidate] = {}

    # The conversation ------------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The next bee's candidate, or None while the phase's barrier holds."""
        self._advance(rng)
        phase = self.phase
        if self.finished or phase.asked == len(phase.schedule) or (self.options.compatible and phase.asked > phase.applied):
            return None
        source = phase.schedule[phase.asked]
        code = self._fly(phase.name, source, rng)
        decoded, fitted = self.decode(code), self.candidate(code)
        origin = {"phase": phase.name, "cycle": phase.cycle, "bee": phase.asked, "source": source, "code": list(code)}
        phase.asked += 1
        return Proposal(fitted, origin, repaired=fitted != decoded)

    def tell(self, trial: Trial) -> None:
        """Keep the fitness of a bee of the current phase; anything else can only improve the best."""
        origin = trial.origin
        if "code" not in origin:
            return
        code, fitness = tuple(origin["code"]), self.fitness(trial)
        if fitness is not None and (self.best is None or fitness > self.best[0]):
            self.best = (fitness, code)
        phase = self.phase
        if (origin["phase"], origin["cycle"]) != (phase.name, phase.cycle) or origin["bee"] in phase.told:
            return
        phase.told[origin["bee"]] = (code, fitness)
        if self.options.compatible or len(phase.told) == len(phase.schedule):
            self._apply()

    @property
    def opening(self) -> Opening:
        """The first sources."""
        return Opening(self.options.population, "population")

    @property
    def finished(self) -> bool:
        """Whether all cycles were flown and told."""
        return self.phase.name == "done"

    # One cycle -------------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        """Greedy acceptance, in the order of asking: strictly better replaces, anything else counts as a failure."""
        phase = self.phase
        while phase.applied in phase.told:
            source = self.sources[phase.schedule[phase.applied]]
            code, fitness = phase.told[phase.applied]
            phase.applied += 1
            better = fitness is not None and (source.fitness is None or fitness > source.fitness)
            if better or phase.name in ("initial", "scout"):
                source.code, source.fitness, source.failures = code, fitness, 0
            else:
                source.failures += 1

    def _advance(self, rng: np.random.Generator) -> None:
        """Open the next phase once every bee of this one is back; a phase without bees is passed over."""
        while self.phase.name != "done" and self.phase.applied == len(self.phase.schedule):
            name, cycle = self.phase.name, self.phase.cycle
            if name in ("initial", "scout"):
                last = cycle == self.options.cycles
                self.phase = (
                    Phase("done", cycle, []) if last else Phase("employed", cycle + 1, list(range(len(self.sources))))
                )
            elif name == "employed":
                self.phase = Phase("onlooker", cycle, onlookers(self.probabilities(), rng))
            else:
                self.phase = Phase("scout", cycle, self._abandoned())
            if self.phase.name == "done":
                return

    def probabilities(self) -> list[float]:
        """Chance that an onlooker tries each source: 0.9 f / max f + 0.1 (all 1 where no fitness is positive)."""
        return onlooker_probabilities([s.fitness for s in self.sources])

    def _abandoned(self) -> list[int]:
        """The source with the most failures, if they reached the limit: at most one scout a cycle."""
        worst = max(range(len(self.sources)), key=lambda j: self.sources[j].failures)
        return [worst] if self.sources[worst].failures >= self.options.limit else []

    def _fly(self, phase: str, source: int, rng: np.random.Generator) -> Code:
        """A code for a bee: random for scouts, a neighbour of the source for the others; redrawn while it is of no use."""
        if phase == "initial" and source == 0 and self.options.include_uniform:
            return (self.options.max_preserve,) * len(self._full)
        code: Code = ()
        for _ in range(REDRAWS):
            if phase in ("initial", "scout"):
                code = self._scout(rng, initial=phase == "initial")
            else:
                code = self._neighbour(source, rng)
            if self._useful(code, source):
                return code
        # All sources are alike, or nothing near fits: a corrected colony looks elsewhere, a compatible one insists.
        code = code if self.options.compatible else self._scout(rng, initial=True)
        return code if self.problem.is_feasible(self.candidate(code)) else self._affordable(code)

    def _affordable(self, code: Code) -> Code:
        """The code that comes nearest to the uniform width, which meets every budget."""
        uniform = self.problem.widest_uniform.widths
        return tuple(
            max(1, min(self.options.max_preserve, 10 * w // full)) for w, full in zip(uniform, self._full, strict=True)
        )

    def _useful(self, code: Code, source: int) -> bool:
        """Whether a code is new among the sources, as a network too, and is or can be brought into the budgets."""
        candidate = self.candidate(code)
        known = [] if self.options.compatible else [self.candidate(s.code) for s in self.sources if s.code is not None]
        if candidate in known or not self.problem.is_feasible(candidate):
            return False
        return self.options.over_budget == "fit" or self.problem.is_feasible(self.decode(code))

    def _scout(self, rng: np.random.Generator, *, initial: bool) -> Code:
        """A random code; the released code's scouts never draw K and draw 1 twice as often."""
        top, size = self.options.max_preserve, len(self._full)
        if self.options.compatible and not initial:
            return tuple(max(1, int(u * top)) for u in rng.random(size))
        return tuple(rng.integers(1, top + 1, size).tolist())

    def _neighbour(self, source: int, rng: np.random.Generator) -> Code:
        parent = self._code(source, rng)
        other = int(rng.integers(len(self.sources) - 1))
        partner = self._code(other + (other >= source), rng)
        size = len(parent)
        if self.options.compatible:
            coordinates = rng.integers(0, max(1, size - 1), self.options.perturbed).tolist()
        else:
            coordinates = rng.choice(size, min(self.options.perturbed, size), replace=False).tolist()
        return neighbour(
            parent, partner, coordinates, rng.uniform(-1, 1, len(coordinates)).tolist(),
            top=self.options.max_preserve, truncate=self.options.compatible,
        )  # fmt: skip

    def _code(self, source: int, rng: np.random.Generator) -> Code:
        code = self.sources[source].code
        return code if code is not None else self._scout(rng, initial=True)

    # Codes and fitness -----------------------------------------------------------------------------------------------

    def decode(self, code: Sequence[int]) -> Candidate:
        """Widths floor(C v / 10), at least 1, moved to the nearest width of the space."""
        return self.problem.space.snap([max(1, full * v // 10) for full, v in zip(self._full, code, strict=True)])

    def candidate(self, code: Sequence[int]) -> Candidate:
        """The network of a code, brought into the budgets; kept, as sources are compared with every new bee."""
        key = tuple(code)
        if key not in self._candidates:
            fitted = self.problem.fit(self.decode(key), grow=self.options.over_budget == "fit")
            self._candidates[key] = self.problem.fill(fitted)
        return self._candidates[key]

    def fitness(self, trial: Trial) -> float | None:
        """Higher is better and positive: the metric itself, or 1 / (1 + metric) where less is better; None for failures."""
        objective = self.problem.objectives[0]
        if trial.state is not TrialState.COMPLETE or objective.metric not in trial.metrics:
            return None
        value = float(trial.metrics[objective.metric])
        return value if objective.maximize else 1 / (1 + max(value, 0.0))

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Sources, the running phase and the best, as JSON data."""
        phase = asdict(self.phase) | {"told": [[bee, list(code), f] for bee, (code, f) in self.phase.told.items()]}
        return super().state_dict() | {
            "sources": [asdict(s) | {"code": None if s.code is None else list(s.code)} for s in self.sources],
            "phase": phase,
            "best": None if self.best is None else [self.best[0], list(self.best[1])],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.sources = [Source(**{**s, "code": None if s["code"] is None else tuple(s["code"])}) for s in state["sources"]]
        told = {int(bee): (tuple(code), fitness) for bee, code, fitness in state["phase"]["told"]}
        self.phase = Phase(**{**state["phase"], "told": told, "schedule": list(state["phase"]["schedule"])})
        self.best = None if state["best"] is None else (state["best"][0], tuple(state["best"][1]))


def neighbour(
    parent: Code, partner: Code, coordinates: Sequence[int], steps: Sequence[float], *, top: int, truncate: bool = False
) -> Code:
    """A parent moved along its difference to a partner: G_i = C_i + r (C_i - P_i), legal and within 1 … ``top``.

    ``steps`` holds one r in (-1, 1) per coordinate. ``truncate`` rounds towards zero as the released code does; the paper
    takes the nearest legal value.
    """
    moved = list(parent)
    for i, r in zip(coordinates, steps, strict=True):
        value = moved[i] + r * (moved[i] - partner[i])
        moved[i] = min(top, max(1, int(value) if truncate else math.floor(value + 0.5)))
    return tuple(moved)


def onlooker_probabilities(fitness: Sequence[float | None]) -> list[float]:
    """P_j = 0.9 f_j / max f + 0.1; a failed source counts as 0; all 1 where no fitness is positive."""
    values = [0.0 if f is None else max(f, 0.0) for f in fitness]
    highest = max(values)
    return [0.9 * v / highest + 0.1 if highest > 0 else 1.0 for v in values]


def onlookers(probabilities: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Sources visited by exactly n onlookers: sweep over the sources, trying each with its probability."""
    visits: list[int] = []
    while len(visits) < len(probabilities):
        visits += [j for j, p in enumerate(probabilities) if rng.random() <= p]
    return visits[: len(probabilities)]
