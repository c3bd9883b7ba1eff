"""A store for drivers: it waits for a database that is away, so that what was evaluated meanwhile is not lost.

A call whose answer got lost may have been carried out. It is made again, and where the second one is refused because of the
first, that counts as done.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from automl_prune.errors import LateOutcomeError, LeaseLostError, StateConflictError
from automl_prune.loop.job import Artifact, SearchJob, SearchState, StoredTrial
from automl_prune.loop.ports import Store
from automl_prune.trial import Outcome, Trial

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

log = logging.getLogger(__name__)


def is_away(error: BaseException) -> bool:
    """Whether a database did not answer, or not in time: later it may."""
    return isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def patiently(
    call: Callable[[], T], *, done: Callable[[Exception], T] | None = None, seconds: float = PATIENCE_SECONDS
) -> T:
    """Make a call until a database answers it, for at most ``seconds``.

    Args:
        call: May be made several times.
        done: What a refusal means when an earlier try may have been carried out; raises what it cannot explain.
        seconds: Then the database's error is raised.
    """
    give_up, pause, tries = time.monotonic() + seconds, _FIRST_PAUSE, 0
    while True:
        try:
            return call()
        except Exception as error:
            if tries and done is not None and isinstance(error, StateConflictError | LeaseLostError):
                return done(error)
            if not is_away(error) or time.monotonic() >= give_up:
                raise
            if not tries:
                log.warning("the database is away (%s); waiting for it", type(error).__name__)
        tries += 1
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class PatientStore:
    """What a driver needs of a store; each method as in :class:`~automl_prune.loop.ports.Store`.

    Args:
        store: Where everything is kept.
        seconds: How long it waits for a database.
    """

    def __init__(self, store: Store, seconds: float = PATIENCE_SECONDS) -> None:
        self._store, self._seconds = store, seconds

    def __getattr__(self, name: str) -> Any:
        """Everything that may simply be done twice: reads, renewals, snapshots, starts."""
        method = getattr(self._store, name)
        return lambda *args, **options: patiently(lambda: method(*args, **options), seconds=self._seconds)

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
        """Move a claimed search on."""

        def done(error: Exception) -> None:
            now = self._store.get_search(search_id)
            if (now.attempt, now.state) != (attempt, state):
                raise error

        patiently(
            lambda: self._store.set_state(search_id, attempt, state, reason=reason, info=info, result=result),
            done=done,
            seconds=self._seconds,
        )

    def release(self, search_id: str, attempt: int, *, reason: str, **options: Any) -> SearchJob:
        """Give a claimed search back."""

        def done(error: Exception) -> SearchJob:
            now = self._store.get_search(search_id)
            if now.attempt != attempt:
                raise error
            return now

        return patiently(
            lambda: self._store.release(search_id, attempt, reason=reason, **options), done=done, seconds=self._seconds
        )

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial."""

        def done(error: Exception) -> int:
            stored = self._trial(search_id, trial.number, error)
            if (stored.trial.candidate, stored.trial.arm) != (trial.candidate, trial.arm):
                raise error
            return stored.asked_seq

        return patiently(lambda: self._store.record_ask(search_id, attempt, trial), done=done, seconds=self._seconds)

    def record_outcome(
        self, search_id: str, attempt: int, number: int, outcome: Outcome, *, trial_attempt: int | None = None
    ) -> int:
        """Store a trial's only outcome."""

        def done(error: Exception) -> int:
            stored = self._trial(search_id, number, error)
            if stored.told_seq is None or isinstance(error, LateOutcomeError) or stored.trial.state is not outcome.state:
                raise error
            return stored.told_seq

        return patiently(
            lambda: self._store.record_outcome(search_id, attempt, number, outcome, trial_attempt=trial_attempt),
            done=done,
            seconds=self._seconds,
        )

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file."""
        patiently(lambda: self._store.add_artifact(search_id, attempt, artifact), seconds=self._seconds)

    def _trial(self, search_id: str, number: int, error: Exception) -> StoredTrial:
        if isinstance(error, LeaseLostError):
            raise error
        return self._store.trial(search_id, number)
