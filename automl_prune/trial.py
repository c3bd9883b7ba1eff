"""One evaluated candidate and its life.

pending ──► running ──► complete      scored
               │   ├──► stopped       ended early by a scheduler
               │   ├──► infeasible    cannot meet the budget; never retried
               │   ├──► failed        raised, or scored NaN; carries its reason
               │   └──► cancelled     the search was cancelled
               └──► pending           the worker was lost: same number, next attempt
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from automl_prune.space import Candidate


class TrialState(StrEnum):
    """Where a trial is in its life (see the module's drawing)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to the trial."""
        return self not in (TrialState.PENDING, TrialState.RUNNING)


NO_ROOM = "no_room"
"""In the details of an outcome: the evaluation found no room for its files, for which the candidate is not to blame."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluation brought back.

    Attributes:
        state: A terminal state.
        metrics: By name, higher or lower is better as the problem says (``top1``, ``loss`` …); finite numbers.
        cost: What the evaluation took: ``seconds``, ``cpu_seconds``, ``images``.
        reason: Why it failed, in one sentence.
        artifacts: Files written below the search's artifact folder, by role.
        details: Anything else worth keeping, JSON.
    """

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def failed(cls, reason: str, cost: Mapping[str, float] | None = None) -> "Outcome":
        """A failure with its reason."""
        return cls(TrialState.FAILED, cost=cost or {}, reason=reason)


@dataclass(frozen=True)
class Trial:
    """One candidate on its way through evaluation.

    Attributes:
        number: Unique in its search, from 0, in order of asking.
        candidate: What is evaluated.
        arm: Which part of the search asked: ``base``, ``search``, ``uniform``, ``random``, ``preparation``, ``final``.
        origin: The strategy's own note on why it asked (JSON); handed back to it in ``tell``.
        parent: Number of the trial whose weights are inherited, if any.
        repaired: Whether the strategy moved its proposal to fit the budget.
        attempt: Counts workers lost while evaluating, from 1.
        outcome: Set once the state is terminal.
    """

    number: int
    candidate: Candidate
    arm: str = "search"
    origin: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    repaired: bool = False
    attempt: int = 1
    state: TrialState = TrialState.PENDING
    outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """How the trial is called in dashboards and logs."""
        return f"trial-{self.number:04d}"

    @property
    def metrics(self) -> Mapping[str, float]:
        """The outcome's metrics, empty before there is one."""
        return self.outcome.metrics if self.outcome else {}

    def with_outcome(self, outcome: Outcome) -> "Trial":
        """The same trial, ended."""
        return replace(self, state=outcome.state, outcome=outcome)


@dataclass(frozen=True)
class Glance:
    """A look at a trial that is still being trained.

    Attributes:
        eighths: Parts of its training that are done.
        scores: By metric, on a part of the select split.
        outcome: How the trial ends if it is stopped here.
    """

    eighths: int
    scores: Mapping[str, float]
    outcome: Outcome


Report = Callable[[Glance], bool]
"""Takes a glance and says whether the trial should go on."""


class Evaluator(Protocol):
    """Scores candidates; built once per worker, called once per trial. May raise: the trial then fails."""

    def __call__(self, trial: Trial) -> Outcome:
        """Evaluate the trial's candidate."""
        ...


class ReportingEvaluator(Protocol):
    """An evaluator whose trials can be stopped while they are trained."""

    def __call__(self, trial: Trial, report: Report | None = None) -> Outcome:
        """Evaluate the trial's candidate, asking ``report`` now and then whether to go on."""
        ...
