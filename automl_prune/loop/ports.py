"""What the loop needs from outside: a Store that remembers and an Executor that evaluates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from automl_prune.loop.job import Artifact, SearchJob, SearchState, StoredTrial
from automl_prune.trial import Evaluator, Outcome, Trial


class Store(Protocol):
    """The truth about searches and trials.

    Writes of a driver carry the ``attempt`` it was claimed with; once another driver claimed the search they raise
    LeaseLostError and change nothing. Reads of something that does not exist raise NotFoundError. Every call is one
    transaction.
    """

    def add_search(self, spec: Mapping[str, Any], *, name: str | None, labels: Mapping[str, str]) -> SearchJob:
        """Queue a search; when this returns, it is durable."""
        ...

    def get_search(self, search_id: str) -> SearchJob:
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
    ) -> list[SearchJob]:
        """Searches newest first; ``before`` is the last id of the previous page."""
        ...

    def claim(self, *, lease_seconds: float) -> SearchJob | None:
        """Take the oldest search that is queued, or whose lease ran out, as its next attempt; None when there is none."""
        ...

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float) -> SearchJob:
        """Extend the lease and read the search (its ``cancel_requested`` above all)."""
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

    def release(self, search_id: str, attempt: int, *, reason: str) -> None:
        """Give a claimed search back to the queue: its driver died."""
        ...

    def request_cancel(self, search_id: str) -> SearchJob:
        """Cancel a queued search at once, ask a running one to stop; StateConflictError when it already ended."""
        ...

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        ...

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        ...

    def record_outcome(self, search_id: str, attempt: int, number: int, outcome: Outcome) -> int:
        """Store a trial's only outcome; returns its place in the event sequence. StateConflictError when it has one."""
        ...

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        ...

    def trials(
        self,
        search_id: str,
        *,
        arm: str | None = None,
        state: str | None = None,
        limit: int | None = None,
        after: int = -1,
    ) -> list[StoredTrial]:
        """Trials in order of number, ``after`` the given number."""
        ...

    def trial(self, search_id: str, number: int) -> StoredTrial:
        """One trial."""
        ...

    def progress(self, search_id: str) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        ...

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        ...

    def artifacts(self, search_id: str) -> list[Artifact]:
        """The search's files by name."""
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
