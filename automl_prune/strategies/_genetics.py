"""What evolution strategies share: genes, operators, and a search that proceeds by generations.

A *gene* is the place of a group's width in the ascending list of widths that the space allows it, so every vector of genes
is a candidate. Children are drawn until one is new and within the budgets; every loop of draws is bounded, and where draws
find nothing new the neighbourhoods of what was asked are swept in order, until nothing is left and the strategy is finished.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from automl_prune.errors import BudgetError
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import Opening, Proposal, Strategy, StrategyOptions
from automl_prune.trial import Trial, TrialState

IntArray = npt.NDArray[np.int64]
BATCH = 25
"""Children drawn at once (the released MetaPruning code's number)."""
RETRIES = 10
"""Children drawn for each that is wanted of an operator in a generation, before random ones take over (released code)."""
DRAWS = 64
"""Random vectors drawn at once, and at most, before they are scaled into the budgets instead."""
SCALED = 10
"""Random vectors scaled into the budgets before neighbourhoods are swept instead."""


class GenerationalOptions(StrategyOptions):
    """Options that evolution strategies share."""

    population: int = Field(50, ge=2, le=10_000, description="Candidates of a generation, and survivors of all before it.")
    generations: int | None = Field(
        None, ge=1, le=100_000, description="Generations, the first included; null: until the search's own limits."
    )
    mutation_rate: float | None = Field(
        0.1, gt=0, le=1, description="Chance that a group's width mutates; null: 1 / number of groups."
    )
    mutation: Literal["resample", "step"] = Field(
        "resample", description="resample: any other width, all alike. step: a width nearby."
    )
    step: float = Field(0.2, gt=0, le=1, description="Standard deviation of a step, as a part of a group's choices.")
    start: Literal["anywhere", "uniform"] = Field(
        "anywhere", description="Random widths. uniform: the uniform width first, and the others scattered around it."
    )
    scatter: float = Field(
        0.5, gt=0, le=3, description="Largest standard deviation of log widths around the uniform width (start: uniform)."
    )
    draw_from: float = Field(
        0.0, ge=0, le=0.99, description="Random widths leave out this part of the choices, the narrowest."
    )
    draw_to: float = Field(1.0, gt=0, le=1, description="Random widths come from the choices below this part of them.")
    over_budget: Literal["fit", "reject"] = Field(
        "fit", description="fit: scale children into the budgets. reject: draw again."
    )
    wait: bool = Field(
        True, description="Finish a generation before the next begins; false (a departure) keeps every worker busy."
    )


@dataclass(frozen=True)
class Member:
    """A scored candidate: the number of the ask it came from, its widths, and its losses, all to be minimised."""

    ask: int
    widths: tuple[int, ...]
    losses: tuple[float, ...]

    def to_json(self) -> list[Any]:
        """JSON form; :meth:`from_json` reads it back equal."""
        return [self.ask, list(self.widths), list(self.losses)]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> "Member":
        """Read :meth:`to_json`'s form."""
        return cls(int(data[0]), tuple(data[1]), tuple(float(x) for x in data[2]))


class GenerationalSearch(Strategy):
    """Generations of candidates bred from the survivors of all before; subclasses say how they breed and who survives.

    Class attributes:
        grown: Operators whose children are scaled up too where they leave budget unused (where any are scaled).
    """

    grown: ClassVar[tuple[str, ...]]
    options: GenerationalOptions

    def __init__(self, problem: Problem, options: GenerationalOptions, *, seed: int = 0) -> None:
        problem.check_reachable()
        super().__init__(problem, options, seed=seed)
        self.survivors: list[Member] = []
        self.arrived: list[Member] = []
        self.generation = 0
        self.made: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.tested: dict[Candidate, None] = {}
        self.pending: set[int] = set()
        self.exhausted = False
        choices = problem.space.choices
        self.sizes: IntArray = np.array([len(c) for c in choices], dtype=np.int64)
        self._table = np.array([[*c, *[c[-1]] * (int(self.sizes.max()) - len(c))] for c in choices], dtype=np.int64)

    # What subclasses say ---------------------------------------------------------------------------------------------

    @abstractmethod
    def quotas(self) -> Mapping[str, int]:
        """Children that each operator may make in this generation, in order; the rest of it is random."""

    @abstractmethod
    def breed(self, operator: str, rng: np.random.Generator, count: int) -> tuple[IntArray, IntArray]:
        """Genes of children ``[count, groups]`` and places of their parents among the survivors ``[count, parents]``."""

    @abstractmethod
    def select(self, members: list[Member]) -> list[Member]:
        """The survivors, at most ``options.population``, among members in order of asking."""

    def losses(self, trial: Trial) -> tuple[float, ...]:
        """What is minimised; raises KeyError for metrics that were not reported."""
        return tuple(float(x) for x in self.problem.losses(trial.metrics))

    # The conversation ------------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The next child, or None while its generation waits for its parents' scores."""
        self._advance()
        if self.finished or sum(self.made.values()) >= self.options.population:
            return None
        proposal = self._child(rng) or self._random(rng) or self._neighbour() or self._sampled(rng)
        if proposal is None:
            self.exhausted = True
            return None
        operator = proposal.origin["operator"]
        self.made[operator] = self.made.get(operator, 0) + 1
        self.tested[proposal.candidate] = None
        self.pending.add(self.asked)
        return proposal

    def tell(self, trial: Trial) -> None:
        """Let a scored trial compete; one without a score only ends its wait, and is never asked again."""
        ask = trial.origin.get("ask")
        if not isinstance(ask, int) or ask not in self.pending:
            return
        self.pending.remove(ask)
        self.tested[trial.candidate] = None
        if trial.state is TrialState.COMPLETE and all(o.metric in trial.metrics for o in self.problem.objectives):
            losses = self.losses(trial)
            if all(map(math.isfinite, losses)):
                self.learn(Member(ask, trial.candidate.widths, losses))
        self._advance()

    def learn(self, member: Member) -> None:
        """Let a scored candidate compete for survival."""
        self.arrived.append(member)

    @property
    def members(self) -> list[Member]:
        """Survivors and what was scored since they were chosen, in order of asking."""
        return sorted([*self.survivors, *self.arrived], key=lambda m: m.ask)

    @property
    def opening(self) -> Opening:
        """The first generation."""
        return Opening(self.options.population, "population")

    @property
    def finished(self) -> bool:
        """Whether all generations are through, or no candidate is left that was not asked yet."""
        return self.exhausted or self.generation == self.options.generations

    def _advance(self) -> None:
        """Begin the next generation once this one was asked and, where it waits, told."""
        asked = sum(self.made.values()) >= self.options.population
        if not self.finished and asked and not (self.options.wait and self.pending):
            self.survivors, self.arrived = self.select(self.members), []
            self.generation += 1
            self.made, self.tries = {}, {}

    # Children --------------------------------------------------------------------------------------------------------

    def _child(self, rng: np.random.Generator) -> Proposal | None:
        """The first new child within the budgets, of the first operator that has one left to make."""
        for operator, quota in self.quotas().items():
            while self.made.get(operator, 0) < quota and (left := RETRIES * quota - self.tries.get(operator, 0)) > 0:
                count = min(BATCH, left)
                genes, parents = self.breed(operator, rng, count)
                row = next(self._usable(operator, self.decode(genes)), None)
                self.tries[operator] = self.tries.get(operator, 0) + (count if row is None else row[0] + 1)
                if row is not None:
                    return self._proposal(operator, row[1], row[2], [self.survivors[p].ask for p in parents[row[0]]])
        return None

    def _usable(self, operator: str, widths: IntArray) -> Iterator[tuple[int, Candidate, bool]]:
        """Rows of ``widths`` that are new and within the budgets: place, candidate, and whether it had to be moved."""
        grow = operator in self.grown
        feasible = self.problem.feasible(widths)
        for row, fits in enumerate(feasible.tolist()):
            drawn = candidate = Candidate(tuple(widths[row].tolist()))
            if drawn in self.tested:
                continue
            if self.options.over_budget == "fit" and (grow or not fits):
                candidate = self.problem.fill(self.problem.fit(drawn, grow=grow))
                fits = self.problem.is_feasible(candidate)
            if fits and candidate not in self.tested:
                yield row, candidate, candidate != drawn

    def _random(self, rng: np.random.Generator) -> Proposal | None:
        """A random candidate: the first draw that will do, or else one that is scaled into the budgets."""
        uniform = self.problem.widest_uniform
        if self.options.start == "uniform" and uniform not in self.tested and self.problem.is_feasible(uniform):
            return self._proposal("uniform", uniform, False)
        scaled = self.options.over_budget == "fit"
        row = next(self._usable("random", self._draw(rng, SCALED if scaled else DRAWS)), None)
        if row is not None:
            return self._proposal("random", row[1], row[2])
        for widths in () if scaled else self._draw(rng, SCALED):
            drawn = Candidate(tuple(widths.tolist()))
            candidate = self.problem.fill(self.problem.fit(drawn))
            if candidate not in self.tested and self.problem.is_feasible(candidate):
                return self._proposal("random", candidate, candidate != drawn)
        return None

    def _draw(self, rng: np.random.Generator, count: int) -> IntArray:
        """Random widths ``[count, groups]``: from ``draw_from … draw_to``, or scattered around a uniform width.

        That is the widest within the budgets, or any below where random candidates are not scaled up.
        """
        if self.options.start == "uniform":
            spread = self.options.scatter * rng.random((count, 1)) * rng.standard_normal((count, len(self.sizes)))
            ratio = 1.0 if "random" in self.grown else rng.random((count, 1))
            return self.problem.space.snap_all(ratio * np.asarray(self.problem.widest_uniform.widths) * np.exp(spread))
        low = np.floor(self.options.draw_from * self.sizes).astype(np.int64)
        high = np.maximum(low + 1, np.floor(self.options.draw_to * self.sizes).astype(np.int64))
        return self.decode(rng.integers(low, high, (count, len(self.sizes))))

    def _neighbour(self) -> Proposal | None:
        """The first new candidate within the budgets that is one choice in one group away from one that was asked."""
        steps = np.concatenate([np.eye(len(self.sizes), dtype=np.int64), -np.eye(len(self.sizes), dtype=np.int64)])
        leaders = [Candidate(m.widths) for m in self.survivors]
        for base in [*leaders, *self.tested, self.problem.widest_uniform, self.problem.space.narrowest]:
            around = self.decode(np.clip(self.encode([base.widths]) + np.vstack([steps, 0 * steps[:1]]), 0, self.sizes - 1))
            for row in around[self.problem.feasible(around)].tolist():
                if (candidate := Candidate(tuple(row))) not in self.tested:
                    return self._proposal("neighbour", candidate, False)
        return None

    def _sampled(self, rng: np.random.Generator) -> Proposal | None:
        """A last try where budgets leave a window that no neighbour lies in."""
        try:
            drawn, candidate = self.problem.sample(rng)
        except BudgetError:
            return None
        return None if candidate in self.tested else self._proposal("random", candidate, candidate != drawn)

    def _proposal(self, operator: str, candidate: Candidate, moved: bool, parents: Sequence[int] = ()) -> Proposal:
        origin = {"ask": self.asked, "generation": self.generation, "operator": operator, "parents": list(parents)}
        return Proposal(candidate, origin, repaired=moved)

    # Genes -----------------------------------------------------------------------------------------------------------

    def decode(self, genes: IntArray) -> IntArray:
        """Widths ``[candidates, groups]`` of genes."""
        return self._table[np.arange(len(self.sizes)), genes]

    def encode(self, widths: Sequence[Sequence[int]]) -> IntArray:
        """Genes ``[candidates, groups]`` of widths of the space."""
        array = np.asarray(widths, dtype=np.int64).reshape(-1, len(self.sizes))
        genes: IntArray = (self._table[None] < array[:, :, None]).sum(axis=2)
        return genes

    def mutate(self, rng: np.random.Generator, genes: IntArray) -> IntArray:
        """Genes with each one changed by chance, as the options say."""
        rate = self.options.mutation_rate or 1 / len(self.sizes)
        if self.options.mutation == "resample":
            return resampled(rng, genes, self.sizes, rate)
        return stepped(rng, genes, self.sizes, rate, self.options.step)

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Survivors, the running generation and everything ever asked, as JSON data."""
        return super().state_dict() | {
            "survivors": [m.to_json() for m in self.survivors],
            "arrived": [m.to_json() for m in self.arrived],
            "generation": self.generation,
            "made": dict(self.made),
            "tries": dict(self.tries),
            "tested": [list(c.widths) for c in self.tested],
            "pending": sorted(self.pending),
            "exhausted": self.exhausted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.survivors = [Member.from_json(m) for m in state["survivors"]]
        self.arrived = [Member.from_json(m) for m in state["arrived"]]
        self.generation = int(state["generation"])
        self.made, self.tries = dict(state["made"]), dict(state["tries"])
        self.tested = {Candidate(tuple(w)): None for w in state["tested"]}
        self.pending = set(state["pending"])
        self.exhausted = bool(state["exhausted"])


def resampled(rng: np.random.Generator, genes: IntArray, sizes: IntArray, rate: float) -> IntArray:
    """Genes ``[n, groups]``, each replaced with chance ``rate`` by another of its ``sizes`` values, all alike.

    Adds U{1 … size - 1} modulo the size, as MetaPruning does: a mutated gene always changes.
    """
    offsets = rng.integers(1, np.maximum(sizes, 2), genes.shape)
    return np.where(rng.random(genes.shape) < rate, (genes + offsets) % sizes, genes)


def stepped(rng: np.random.Generator, genes: IntArray, sizes: IntArray, rate: float, scale: float) -> IntArray:
    """Genes ``[n, groups]``, each moved with chance ``rate`` by about ``scale`` of its ``sizes`` values, at least by one.

    A step over the end goes the other way instead.
    """
    steps = np.rint(rng.standard_normal(genes.shape) * scale * sizes).astype(np.int64)
    steps = np.clip(np.where(steps == 0, rng.choice([-1, 1], genes.shape), steps), 1 - sizes, sizes - 1)
    outside = (genes + steps < 0) | (genes + steps >= sizes)
    moved = np.clip(genes + np.where(outside, -steps, steps), 0, sizes - 1)
    return np.where(rng.random(genes.shape) < rate, moved, genes)


def crossed(rng: np.random.Generator, mothers: IntArray, fathers: IntArray) -> IntArray:
    """Genes ``[n, groups]``, each from either parent by the toss of a fair coin."""
    return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)


def pairs(rng: np.random.Generator, count: int, among: int) -> IntArray:
    """Two distinct places below ``among`` (at least 2), ``[count, 2]``, every ordered pair alike."""
    first = rng.integers(among, size=count)
    return np.stack([first, (first + rng.integers(1, among, size=count)) % among], axis=1)
