"""The loop's memory: which trial is next, what is recorded, who is told. The executor drives it.

Everything it knows can be read back from the store: asks and tells carry places in one event sequence, and replaying them
brings every strategy into the state it was in. Trials that were in flight when a driver died are handed out again, with the
same number; finished ones never are.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from automl_prune.errors import EvaluationError, LateOutcomeError, StateConflictError
from automl_prune.loop.arms import Arm, History
from automl_prune.loop.ports import Store, replay_order
from automl_prune.loop.standing import SEARCH
from automl_prune.loop.stopping import Patience
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import Strategy
from automl_prune.trial import NO_ROOM, Outcome, Trial, TrialState

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 50
"""Told trials between two snapshots of the strategies; a restart replays what came after the last."""
SNAPSHOT_PART = 20
"""A strategy's state may hold all trials, so after n of them n / SNAPSHOT_PART pass before the next snapshot: then the work
of writing snapshots stays the same for each trial, however many there are."""
GIVE_UP_AFTER = 10
"""Failed trials of the search arm, without a single success, after which the search fails."""


@runtime_checkable
class Approaching(Protocol):
    """A strategy that comes to the budgets from outside, and can say how far they still are."""

    def way_left(self) -> str:
        """A sentence on what it needs to reach them."""
        ...


class Controller:
    """A search's trial source (see :class:`~automl_prune.loop.ports.TrialSource`).

    Args:
        store: Where trials are recorded.
        search_id: The search.
        attempt: The claim under which this driver writes.
        problem: What is searched.
        arms: Its parts, in order.
        on_start: Called with an arm's name before it starts; what it evaluates may have to be measured for.
        on_arm: Called with an arm's name when it has started.
        on_trial: Called with every trial that ends.
        out_of_time: Whether the search arm must stop asking.
        on_standstill: Called with the reason why nothing can be evaluated for now, and with None once something is.
        patience: Complete feasible trials without a better one after which the search arm stops asking.
        foresee: The outcome of a trial that need not be evaluated, or None; asked before one is handed out.
        judge: What an outcome comes to, with all that is known of its trial besides; the answer is what is recorded.
    """

    def __init__(
        self,
        store: Store,
        search_id: str,
        attempt: int,
        problem: Problem,
        arms: Sequence[Arm],
        *,
        on_start: Callable[[str], None] = lambda name: None,
        on_arm: Callable[[str], None] = lambda name: None,
        on_trial: Callable[[Trial], None] = lambda trial: None,
        out_of_time: Callable[[], bool] = lambda: False,
        on_standstill: Callable[[str | None], None] = lambda reason: None,
        patience: int | None = None,
        foresee: Callable[[Trial], Outcome | None] = lambda trial: None,
        judge: Callable[[Trial, Outcome], Outcome] = lambda trial, outcome: outcome,
    ) -> None:
        self._store, self._id, self._attempt = store, search_id, attempt
        self._problem, self._arms = problem, list(arms)
        self._on_start, self._on_arm = on_start, on_arm
        self._on_trial, self._out_of_time = on_trial, out_of_time
        self._on_standstill = on_standstill
        self._patience = Patience(problem, patience, loss=self._loss)
        self._foresee, self._judge = foresee, judge
        self._strategies: dict[str, Strategy] = {}
        self._asked: dict[str, int] = {}
        self._asked_before: dict[str, list[Trial]] = {}
        self._told: dict[int, Trial] = {}
        self._open: dict[int, Trial] = {}
        self._again: deque[Trial] = deque()
        self._current = -1
        self._numbers = 0
        self._since_snapshot = 0
        self._searched, self._worked = 0, False
        self._cancelled = self._paused = False
        self._no_room: str | None = None
        self._failure: str | None = None
        self._restore()

    # What the executor sees ------------------------------------------------------------------------------------------

    def next(self) -> Trial | None:
        """The next trial to evaluate, recorded before it is handed out; those whose outcome is foreseen end here."""
        while (trial := self._upcoming()) is not None:
            foreseen = self._foresee(trial)
            if foreseen is None:
                return trial
            self.complete(trial, foreseen)
        return None

    def _upcoming(self) -> Trial | None:
        if self.finished:
            return None
        if self._again:
            return self._start(self._again.popleft())
        while not self.finished:
            trial = self._ask()
            if trial is not None:
                return self._start(trial)
            if not self._next_arm():
                self._failure = self._failure or self._stuck()
                return None
        return None

    def _stuck(self) -> str | None:
        """Why nothing will ever come, if a strategy waits although nothing is in flight."""
        if self._open or not 0 <= self._current < len(self._arms):
            return None
        return f"The strategy of the {self._arms[self._current].name} arm waits for trials, but none is in flight."

    def retry(self, trial: Trial, cause: str) -> Trial:
        """The trial's next attempt, recorded."""
        again = self._start(trial)
        log.warning("%s lost its worker in attempt %d: %s", trial.name, trial.attempt, cause)
        return again

    def complete(self, trial: Trial, outcome: Outcome) -> None:
        """Record an outcome and tell the strategy that asked.

        A trial whose files had no room stays open: it is handed out again once the search goes on.
        """
        if outcome.details.get(NO_ROOM):
            self._no_room = outcome.reason
            return
        outcome = self._judge(trial, outcome)
        try:
            sequence = self._store.record_outcome(
                self._id, self._attempt, trial.number, outcome, trial_attempt=trial.attempt
            )
        except LateOutcomeError as error:
            log.warning("a late outcome is ignored: %s", error)
            return
        except StateConflictError:
            log.warning("%s already has an outcome; a late one is ignored", trial.name)
            if self._open.pop(trial.number, None):
                self._tell(self._store.trial(self._id, trial.number).trial)
            return
        ended = replace(self._open.pop(trial.number, trial), state=outcome.state, outcome=outcome)
        self._tell(ended)
        self._on_trial(ended)
        self._since_snapshot += 1
        if self._since_snapshot >= max(SNAPSHOT_EVERY, len(self._told) // SNAPSHOT_PART):
            self._snapshot(sequence)
        self._failure = self._failure or self._why_give_up(ended)

    def stand_still(self, reason: str | None) -> None:
        """Pass on why nothing can be evaluated for now."""
        self._on_standstill(reason)

    @property
    def finished(self) -> bool:
        """Whether no further trial will come."""
        return self._cancelled or self._paused or self.no_room is not None or self._failure is not None or self._through

    @property
    def stopping(self) -> bool:
        """Whether trials in flight should be abandoned."""
        return self._cancelled or self._failure is not None

    def cancel(self) -> None:
        """Stop: no further trials, and those in flight are abandoned."""
        self._cancelled = True

    def pause(self) -> None:
        """Hand out no further trials; those in flight still complete."""
        self._paused = True

    @property
    def paused(self) -> bool:
        """Whether it stopped early, and goes on from here another time."""
        return self._paused and not self.stopping and not self._through

    @property
    def _through(self) -> bool:
        return self._current >= len(self._arms) and not self._again

    @property
    def no_room(self) -> str | None:
        """What was said when the files of a trial had no room; no further trials are handed out then."""
        return self._no_room

    # What the driver sees --------------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """Trials that ended, in order of number."""
        return [self._told[n] for n in sorted(self._told)]

    @property
    def strategy(self) -> Strategy | None:
        """The ordered strategy, once its arm started."""
        return self._strategies.get(SEARCH)

    def raise_failure(self) -> None:
        """Raise EvaluationError if the search had to be given up."""
        if self._failure is not None:
            raise EvaluationError(self._failure)

    # Asking ----------------------------------------------------------------------------------------------------------

    def _ask(self) -> Trial | None:
        if not 0 <= self._current < len(self._arms):
            return None
        arm = self._arms[self._current]
        strategy = self._strategies[arm.name]
        if self._exhausted(arm, strategy):
            return None
        proposal = strategy.ask()
        if proposal is None:
            return None
        trial = Trial(
            number=self._numbers,
            candidate=proposal.candidate,
            arm=arm.name,
            origin=proposal.origin,
            parent=proposal.parent,
            repaired=proposal.repaired,
        )
        self._store.record_ask(self._id, self._attempt, trial)
        self._numbers += 1
        self._asked[arm.name] += 1
        self._open[trial.number] = trial
        return trial

    def _start(self, trial: Trial) -> Trial:
        attempt = self._store.record_start(self._id, self._attempt, trial.number)
        return replace(trial, attempt=attempt, state=TrialState.RUNNING)

    def _exhausted(self, arm: Arm, strategy: Strategy) -> bool:
        late = arm.name == SEARCH and (self._out_of_time() or self._patience.over)
        return strategy.finished or late or self._asked[arm.name] >= arm.limit(self._asked)

    def _next_arm(self) -> bool:
        """Move on if this arm has asked all it may and, where the next one waits, every trial is back."""
        if 0 <= self._current < len(self._arms):
            arm = self._arms[self._current]
            if not self._exhausted(arm, self._strategies[arm.name]):
                return False
        upcoming = self._current + 1
        if upcoming >= len(self._arms) or self._arms[upcoming].waits:
            if self._open:
                return False
            self._failure = self._why_outside()
            if self._failure:
                return True
        self._enter(upcoming)
        return True

    def _why_outside(self) -> str | None:
        """Why nothing can come of the search, if all that it scored lies outside the budgets."""
        scored = [t for t in self._told.values() if t.arm == SEARCH and t.state is TrialState.COMPLETE]
        if not scored or any(self._problem.meets(t.candidate, t.metrics) for t in scored):
            return None
        widths = [t.candidate for t in scored]
        array = self._problem.space.array(widths)
        nearest = widths[int(np.argmin(self._problem.excess(array) + self._problem.shortfall(array)))]
        costs = self._problem.costs(nearest)
        wanted = ", ".join(
            f"{b.metric} is {costs[b.metric]:.4g}, to be from {b.min:.4g} to {b.max:.4g}" for b in self._problem.budgets
        )
        strategy = self._strategies[SEARCH]
        way_left = f" {strategy.way_left()}" if isinstance(strategy, Approaching) else ""
        return (
            f"The search's limits ended it after {len(widths)} scored trials, none of them within the budgets (at the "
            f"nearest {wanted}). Raise trials.max_seconds or trials.max.{way_left}"
        )

    def _enter(self, index: int) -> None:
        self._current = index
        if index < len(self._arms):
            arm = self._arms[index]
            self._on_start(arm.name)
            self._strategies[arm.name] = arm.start([*self.history, *self._asked_before.get(arm.name, ())])
            self._asked[arm.name] = 0
            self._on_arm(arm.name)

    # Telling ---------------------------------------------------------------------------------------------------------

    def _tell(self, trial: Trial) -> None:
        self._remember(trial)
        self._strategies[trial.arm].tell(trial)

    def _loss(self, candidate: Candidate, metrics: Mapping[str, float]) -> float:
        return self._strategies[SEARCH].ranking_loss(candidate, metrics)

    def _remember(self, trial: Trial) -> None:
        self._told[trial.number] = trial
        self._patience.tell(trial)
        if trial.arm == SEARCH:
            self._searched += 1
            self._worked = self._worked or trial.state is not TrialState.FAILED

    def _why_give_up(self, trial: Trial) -> str | None:
        arm = next(a for a in self._arms if a.name == trial.arm)
        if trial.state is not TrialState.FAILED or trial.outcome is None:
            return None
        if arm.required:
            return f"{trial.name} ({arm.name}) failed: {trial.outcome.reason}"
        if self._searched >= GIVE_UP_AFTER and not self._worked:
            return f"All of the first {self._searched} trials failed; the last: {trial.outcome.reason}"
        return None

    # Memory ----------------------------------------------------------------------------------------------------------

    def _snapshot(self, sequence: int) -> None:
        states = {name: s.state_dict() for name, s in self._strategies.items()}
        self._store.save_snapshot(self._id, self._attempt, {"sequence": sequence, "strategies": states})
        self._since_snapshot = 0

    def _restore(self) -> None:
        """Replay the stored conversation; what a snapshot covers is taken from it instead of asked again."""
        stored = self._store.trials(self._id)
        snapshot = self._store.get_search(self._id).snapshot
        covered = int(snapshot["sequence"]) if snapshot else -1
        self._numbers = max((t.trial.number for t in stored), default=-1) + 1
        for recorded in stored:
            self._asked_before.setdefault(recorded.trial.arm, []).append(recorded.trial)
        for sequence, event, trial in replay_order(stored):
            if event == "ask":
                self._replay_ask(trial, ask_again=sequence > covered)
            else:
                self._open.pop(trial.number, None)
                self._remember(trial)
                if sequence > covered:
                    self._strategies[trial.arm].tell(trial)
            if snapshot and sequence == covered:
                self._load(snapshot)
        self._again.extend(self._open[n] for n in sorted(self._open))
        self._failure = next(filter(None, map(self._why_give_up, self.history)), None)
        if self._current < 0:
            self._enter(0)

    def _replay_ask(self, trial: Trial, *, ask_again: bool) -> None:
        while self._current < 0 or self._arms[self._current].name != trial.arm:
            self._enter(self._current + 1)
        self._open[trial.number] = replace(trial, state=TrialState.PENDING, outcome=None)
        self._asked[trial.arm] += 1
        if not ask_again:
            return
        proposal = self._strategies[trial.arm].ask()
        if proposal is None or proposal.candidate != trial.candidate:
            log.warning("%s: the strategy now asks differently than when it was recorded; the record counts", trial.name)

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        for name, state in snapshot["strategies"].items():
            while name not in self._strategies:
                self._enter(self._current + 1)
            self._strategies[name].load_state_dict(state)
