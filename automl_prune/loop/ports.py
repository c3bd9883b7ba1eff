"""What the loop needs from outside: a Store that remembers and an Executor that evaluates.

A Store, by who talks to it (every store holds :class:`automl_prune.testing.StoreContract`):

========== ==========================================================================================================
clients    ``add_search``, ``add_search_once``, ``ordered_before`` · ``update_search``,
           ``request_cancel``, ``request_pause``, ``request_resume`` · all reads. Each takes a ``tenant``;
           what belongs to another one is not found
launchers  ``claim``, ``settle_lapsed``; ``release`` when a driver died
drivers    ``renew``, ``set_state``, ``release``, ``record_…``, ``save_snapshot``, ``add_artifact``, with their attempt
watchers   ``events``: an outbox, written in the transactions that change things
auditors   ``audit``: who changed what, written in the same transactions. Changes of clients take their ``origin``
========== ==========================================================================================================
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from automl_prune.loop.audit import HERE, AuditEntry, Origin
from automl_prune.loop.job import (
    DEFAULT_TENANT,
    Artifact,
    Event,
    SearchAttempt,
    SearchJob,
    SearchState,
    StoredTrial,
    Submission,
    Worker,
)
from automl_prune.trial import Evaluator, Outcome, Trial

Limits = Callable[[str], int | None] | Mapping[str, int]
"""How many searches that an API key ordered may run at once, by its id; None, or a key that is not named: any number."""


@dataclass(frozen=True)
class QueueLimits:
    """How many searches may wait, or rest, before another one is refused; None: any number.

    Attributes:
        of_key: Of those that the same API key ordered.
        of_tenant: Of its tenant's, whoever ordered them.
    """

    of_key: int | None = None
    of_tenant: int | None = None


UNLIMITED = QueueLimits()


@dataclass(frozen=True)
class Idempotency:
    """A client's key for one order, and the fingerprint of what it ordered; remembered for 24 hours."""

    key: str
    fingerprint: str


class Store(Protocol):
    """The truth about searches and trials.

    Writes of a driver carry the ``attempt`` it was claimed with; once another driver claimed the search they raise
    LeaseLostError and change nothing. Reads of something that does not exist, or belongs to another ``tenant`` than the
    one given, raise NotFoundError. Changes of a search that has another version than the ``expected_version`` raise
    PreconditionError. Every call is one transaction.
    """

    # What clients do --------------------------------------------------------------------------------------------------

    def add_search(
        self,
        spec: Mapping[str, Any],
        *,
        name: str | None,
        labels: Mapping[str, str],
        tenant: str = DEFAULT_TENANT,
        priority: int = 0,
        queue: QueueLimits = UNLIMITED,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Queue a search; when this returns, it is durable. It counts against the limits of the key that it comes from.

        Raises QueueFullError; several at once cannot pass a limit.
        """
        ...

    def add_search_once(
        self,
        spec: Mapping[str, Any],
        *,
        name: str | None,
        labels: Mapping[str, str],
        idempotency: Idempotency,
        tenant: str = DEFAULT_TENANT,
        priority: int = 0,
        queue: QueueLimits = UNLIMITED,
        origin: Origin = HERE,
    ) -> Submission:
        """Queue a search unless the tenant's key came before, in the last 24 hours: then that search, as it is now.

        Raises IdempotencyError when the key came with another fingerprint, and QueueFullError where one would be made. Of
        several at the same moment one is new.
        """
        ...

    def ordered_before(self, idempotency: Idempotency, *, tenant: str = DEFAULT_TENANT) -> SearchJob | None:
        """The search that ``add_search_once`` would answer with, as it is now; None when it would make one.

        Raises IdempotencyError when the key came with another fingerprint.
        """
        ...

    def update_search(
        self,
        search_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Change what is given; labels replace all there are, an empty name takes the name away.

        Raises StateConflictError for a new priority of a search that has ended.
        """
        ...

    def request_cancel(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Cancel a waiting or paused search at once, ask a running one to stop; StateConflictError when it already ended."""
        ...

    def request_pause(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Pause a queued search at once, ask a driven one to be given back; asking twice is asking once.

        Raises StateConflictError when it ended or is to be cancelled.
        """
        ...

    def request_resume(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Queue a paused search again, or take back a request to pause; StateConflictError when there is neither."""
        ...

    # What anybody reads -----------------------------------------------------------------------------------------------

    def get_search(self, search_id: str, *, tenant: str | None = None) -> SearchJob:
        """One search."""
        ...

    def list_searches(
        self,
        *,
        states: Sequence[SearchState] = (),
        strategy: str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 50,
        before: str | None = None,
        tenant: str | None = None,
    ) -> list[SearchJob]:
        """Searches newest first, without their snapshots and results; ``before`` is the last id of the previous page."""
        ...

    def count_searches(
        self, *, states: Sequence[SearchState] = (), key_id: str | None = None, tenant: str | None = None
    ) -> int:
        """How many searches there are, that this API key ordered if one is given."""
        ...

    def ahead_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, int]:
        """How many queued searches, of anybody, are claimed before these, by id; only those that are queued are in it."""
        ...

    def attempts(self, search_id: str, *, tenant: str | None = None) -> list[SearchAttempt]:
        """Every claim of the search, oldest first."""
        ...

    def trials(
        self,
        search_id: str,
        *,
        arm: str | None = None,
        state: str | None = None,
        numbers: Collection[int] | None = None,
        limit: int | None = None,
        after: int = -1,
        tenant: str | None = None,
    ) -> list[StoredTrial]:
        """Trials in order of number, ``after`` the given number; of these ``numbers`` alone where some are given."""
        ...

    def trial(self, search_id: str, number: int, *, tenant: str | None = None) -> StoredTrial:
        """One trial."""
        ...

    def trials_by_key(self, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], StoredTrial]:
        """Trials of several searches at once, by search and number; those that are not found are left out."""
        ...

    def progress(self, search_id: str, *, tenant: str | None = None) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        ...

    def progress_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """:meth:`progress` of several searches at once, by id; those that are not found are left out."""
        ...

    def artifacts(self, search_id: str, *, tenant: str | None = None) -> list[Artifact]:
        """The search's files by name."""
        ...

    def events(
        self, search_id: str | None = None, *, tenant: str | None = None, after: int = 0, limit: int = 100
    ) -> list[Event]:
        """Events of a search, of a tenant's searches, or all; those that follow ``after``, the last id that was read.

        Of one search, ids rise. Across searches an event may carry a lower id than one before it, but none is ever left
        out by going on after the last one read.
        """
        ...

    def audit(
        self, *, object_id: str | None = None, limit: int = 50, before: str | None = None, tenant: str | None = None
    ) -> list[AuditEntry]:
        """What clients changed, newest first, of an object or all; ``before`` is the last id of the previous page.

        What was refused, and what changed nothing, is not in it.
        """
        ...

    # What launchers and drivers do ------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        lease_seconds: float,
        worker: Worker | None = None,
        limits: Limits | None = None,
        most_losses: int | None = None,
    ) -> SearchJob | None:
        """Take a search that is queued, or whose lease ran out, as its next attempt; None when there is none.

        Of these the one of the highest priority, and of equals the oldest; those of an API key that has as many running
        as ``limits`` allow wait. A lease that ran out is a lost driver: the search fails with the ``most_losses``-th since
        its last outcome.
        """
        ...

    def settle_lapsed(self, *, most_losses: int | None = None) -> int:
        """Put searches right whose lease ran out, whether or not there is room for them; returns how many.

        Each has lost its driver, as by ``release``: it is cancelled or paused when that was requested, failed with the
        ``most_losses``-th loss since its last outcome, or else queued.
        """
        ...

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float, worker: Worker | None = None) -> SearchJob:
        """Extend the lease and read the search (its requests above all), without its snapshot and result.

        ``worker`` is who drives it from now on.
        """
        ...

    def set_state(
        self,
        search_id: str,
        attempt: int,
        state: SearchState,
        *,
        reason: str | None = None,
        info: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a claimed search on; ``info`` is merged into what is there. A terminal state ends the lease."""
        ...

    def release(
        self,
        search_id: str,
        attempt: int,
        *,
        reason: str,
        lost: bool = False,
        most_losses: int | None = None,
        hold: bool = False,
    ) -> SearchJob:
        """Give a claimed search back: cancelled or paused when that was requested, else queued.

        With ``lost`` its driver died of ``reason``; the search fails with the ``most_losses``-th since its last outcome.
        With ``hold`` it is paused because of ``reason``, until somebody resumes it.
        """
        ...

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        ...

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        ...

    def record_outcome(
        self, search_id: str, attempt: int, number: int, outcome: Outcome, *, trial_attempt: int | None = None
    ) -> int:
        """Store a trial's only outcome; returns its place in the event sequence. Drivers lost before count no more.

        Raises StateConflictError when it has one, LateOutcomeError when the trial was started again since
        ``trial_attempt``.
        """
        ...

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        ...

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        ...


class TrialSource(Protocol):
    """What an executor pulls trials from; called from one thread at a time."""

    def next(self) -> Trial | None:
        """A trial to start now, or None: nothing at the moment (see ``finished``)."""
        ...

    def retry(self, trial: Trial, cause: str) -> Trial:
        """A trial whose worker was lost, as its next attempt; ``cause`` says how."""
        ...

    def complete(self, trial: Trial, outcome: Outcome) -> None:
        """Hand an outcome back; exactly once per trial handed out."""
        ...

    def stand_still(self, reason: str | None) -> None:
        """Hear why no trial that was handed out can be evaluated for now; None once one is."""
        ...

    @property
    def finished(self) -> bool:
        """True once no further trial will come; trials in flight still complete."""
        ...

    @property
    def stopping(self) -> bool:
        """True when trials in flight should be abandoned too (cancelled)."""
        ...


class Executor(Protocol):
    """Evaluates trials of a source until it is finished.

    A trial whose evaluator raises, or returns a metric that is not finite, completes as failed with its reason. When the
    source is ``stopping``, trials in flight complete as cancelled.
    """

    def run(self, source: TrialSource, make_evaluator: Callable[[], Evaluator]) -> None:
        """Drive the source; ``make_evaluator`` is called once per worker, in the worker."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What it is and where it can be watched (JSON)."""
        ...


def replay_order(trials: Sequence[StoredTrial]) -> Iterator[tuple[int, str, Trial]]:
    """The conversation with the strategies in its original order: (sequence, ``ask`` or ``tell``, trial)."""
    events = [(t.asked_seq, "ask", t.trial) for t in trials]
    events += [(t.told_seq, "tell", t.trial) for t in trials if t.told_seq is not None]
    return iter(sorted(events, key=lambda e: e[0]))
