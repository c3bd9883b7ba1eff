"""What a strategy is: it asks for candidates and is told how they did.

    strategy = STRATEGIES.get("abc").create(problem, seed=0, preset="corrected", options={})
    while not strategy.finished:
        proposal = strategy.ask()          # None: wait for a trial in flight to be told
        ...evaluate...
        strategy.tell(trial)

Any number of asks may be outstanding, and trials are told in any order and in any terminal state. A strategy learns from
the trial alone (its candidate, state, metrics and ``origin``, the note it attached when asking), and the random numbers of
ask *n* derive from (seed, n), so there is no random state to forget: ``load_state_dict(state_dict())`` asks exactly what
the saved one would have asked.

Every candidate lies in the space and within every budget, except those that a strategy only measures something with: their
origin has the key :data:`MEASURES`. They are trials like any other, counted in the search's limit and in what controls may
spend, but one outside the budgets is never recovered, reported or a search's best.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ValidationError

from automl_prune.errors import FieldError, SpecError, UnknownNameError
from automl_prune.problem import Problem
from automl_prune.registry import Registry
from automl_prune.space import Candidate
from automl_prune.strict import STRICT, escaped, read, said
from automl_prune.trial import Trial

STRATEGIES: Registry["type[Strategy]"] = Registry(
    "strategy", package="automl_prune.strategies", entry_point_group="automl_prune.strategies"
)

MEASURES = "measures"
"""Key of an origin that declares a measurement, by what it measures (JSON); such a candidate may lie outside the budgets."""


def _distinct(metrics: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({m for m in metrics if metrics.count(m) > 1}):
        raise ValueError(f"each cost is minimised once, and {', '.join(twice)} came more often")
    return metrics


CostMetrics = Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""Names of costs that are minimised beside the objectives."""


class StrategyOptions(BaseModel):
    """Options of a strategy; subclasses declare fields with defaults, limits and a description."""

    model_config = STRICT


@dataclass(frozen=True)
class Proposal:
    """A candidate to evaluate, the strategy's note on why, and whether it was moved to fit the budget."""

    candidate: Candidate
    origin: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    repaired: bool = False


class Opening(NamedTuple):
    """The trials that a strategy begins with before it learns from any: how many, and the option that says so."""

    trials: int
    option: str


class Strategy(ABC):
    """Proposes candidates of a problem; see the module for the conversation.

    Class attributes:
        name, help, paper: How it is listed.
        Options: Its options, validated.
        presets: Option values by preset name.
        default_recipe: Recipe fields it was published with, by preset.
        default_finish: Fields of ``finish`` it was published with, by preset; they count where an order names no recovery.
        wants_starts: Whether it wants ``starts``; finding them takes a ranking of all channels.

    Attributes:
        trials: How often the search lets it ask, so that it can divide them up; None when nobody said. It may be more than
            will be asked, as searches also end early. Known from the first ask on, not yet in ``__init__``.
        starts: Networks that others would choose, by how they were found; empty when nobody said. Known like ``trials``,
            and only to strategies that declare ``wants_starts``.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    paper: ClassVar[str | None] = None
    Options: ClassVar[type[StrategyOptions]] = StrategyOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    default_preset: ClassVar[str] = "default"
    default_recipe: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    default_finish: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    wants_starts: ClassVar[bool] = False

    def __init__(self, problem: Problem, options: StrategyOptions, *, seed: int = 0) -> None:
        self.problem, self.options, self.seed = problem, options, seed
        self.asked = 0
        self.trials: int | None = None
        self.starts: Mapping[str, Candidate] = {}

    @classmethod
    def read_options(cls, preset: str | None, options: Mapping[str, Any]) -> StrategyOptions:
        """Options of a preset with overrides; raises UnknownNameError or SpecError with pointers."""
        chosen = preset or cls.default_preset
        if chosen not in cls.presets:
            raise UnknownNameError(f"preset of strategy {cls.name!r}", chosen, cls.presets, pointer="/strategy/preset")
        try:
            return read(cls.Options, {**cls.presets[chosen], **options})
        except ValidationError as error:
            raise SpecError([_option_error(cls, item) for item in error.errors(include_url=False)]) from None

    @classmethod
    def recipe(cls, preset: str | None) -> Mapping[str, Any]:
        """Recipe fields the preset was published with."""
        return cls.default_recipe.get(preset or cls.default_preset, {})

    @classmethod
    def finish(cls, preset: str | None) -> Mapping[str, Any]:
        """Fields of ``finish`` the preset was published with."""
        return cls.default_finish.get(preset or cls.default_preset, {})

    @classmethod
    def create(
        cls,
        problem: Problem,
        *,
        seed: int = 0,
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        trials: int | None = None,
        begun: bool = False,
    ) -> "Strategy":
        """A new strategy from names, for a search of at most ``trials`` asks.

        Raises as :meth:`read_options` and, unless the search has ``begun``, as :meth:`check_trials`: an order that was taken
        once is not refused later.
        """
        made = cls(problem, cls.read_options(preset, options or {}), seed=seed)
        made.trials = trials
        if trials is not None and not begun:
            made.check_trials(trials)
        return made

    def check_trials(self, trials: int) -> None:
        """Raise SpecError where that many trials are too few: the search would end with its :attr:`opening`."""
        if self.opening is not None and trials <= self.opening.trials:
            raise SpecError([FieldError("/trials/max", _too_few(self.name, self.opening, trials), "too_few_trials")])

    @property
    def wants_measured(self) -> bool:
        """Whether it wants to :meth:`recall` what earlier searches measured."""
        return False

    def recall(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Learn how an earlier search scored a network with at most one group cut; comes before the first ask, if wanted.

        It is no trial of this search, which can neither recover nor report it unless it is asked for.
        """

    def ask(self) -> Proposal | None:
        """The next candidate, or None to wait for trials in flight."""
        proposal = self.propose(np.random.default_rng([self.seed, self.asked]))
        if proposal is not None:
            self.asked += 1
        return proposal

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """Make ask number ``self.asked``; the same state and number make the same proposal."""

    def tell(self, trial: Trial) -> None:  # noqa: B027  (strategies that do not learn keep this)
        """Learn from a trial in a terminal state."""

    def ranking_loss(self, candidate: Candidate, metrics: Mapping[str, float]) -> float:
        """What the search's scored candidates are ranked by, the least first; the problem's first loss by default.

        Leaders, finalists, the one that is reported and ``trials.patience`` go by it, those of the controls as well. The
        best so far that a search shows meanwhile is the one of the best objective.
        """
        return self.problem.losses(metrics)[0]

    @property
    def opening(self) -> Opening | None:
        """Its first phase, which no score can change; None where it has none."""
        return None

    @property
    def finished(self) -> bool:
        """Whether the strategy has nothing more to ask, ever; by default only the trial budget ends a search."""
        return False

    @property
    def family(self) -> tuple[int, ...]:
        """Numbers of the trials that it built on, one after the other; their networks are kept and shown as winners."""
        return ()

    @property
    def heirs(self) -> frozenset[int]:
        """Numbers of further trials that a proposal may yet name as its parent; the weights of all others may go."""
        return frozenset()

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON data."""
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.asked = int(state["asked"])


def _too_few(name: str, opening: Opening, trials: int) -> str:
    least, option = opening
    return (
        f"{name} learns from its first {least:,} trials ({option}), so in {trials:,} it would only be a random search. "
        f"Raise it above {least:,}, or lower the strategy's {option}."
    )


def _option_error(strategy: type[Strategy], item: Any) -> FieldError:
    path = "".join(f"/{escaped(str(part)[:80])}" for part in item["loc"])
    known = ", ".join(strategy.Options.model_fields) or "none"
    hint = f" Options of {strategy.name!r}: {known}." if item["type"] == "extra_forbidden" else ""
    return FieldError(f"/strategy/options{path}", f"{said(item)}{hint}", item["type"])
