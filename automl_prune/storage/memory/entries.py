"""What the store in memory keeps of a search, and what its methods are made of."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from automl_prune.loop.audit import Action, AuditEntry, Origin
from automl_prune.loop.job import Artifact, Event, EventKind, SearchAttempt, SearchJob, SearchState, StoredTrial
from automl_prune.storage import rules
from automl_prune.storage.ids import new_id
from automl_prune.trial import TrialState


@dataclass
class Entry:
    """A search with all that belongs to it."""

    job: SearchJob
    trials: dict[int, StoredTrial] = field(default_factory=dict)
    attempts: list[SearchAttempt] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    places: int = 0

    def touch(self, **values: Any) -> SearchJob:
        """Change what does not count as a change of the search itself."""
        self.job = replace(self.job, updated_at=now(), **values)
        return self.job

    def change(self, **values: Any) -> SearchJob:
        """Change the search itself."""
        return self.touch(version=self.job.version + 1, **values)

    def put_back_running_trials(self) -> None:
        """Let the trials wait that a driver was working on."""
        for number, stored in self.trials.items():
            if stored.trial.state is TrialState.RUNNING:
                self.trials[number] = replace(stored, trial=replace(stored.trial, state=TrialState.PENDING))

    def close_attempt(self, reason: str, *, lost: bool = False) -> None:
        """End the attempt that is under way."""
        if self.attempts and self.attempts[-1].ended_at is None:
            self.attempts[-1] = replace(self.attempts[-1], ended_at=now(), reason=reason, lost=lost)

    def next_place(self) -> int:
        """The next place in the conversation with the strategies."""
        self.places += 1
        return self.places


class Steps:
    """Base of the store's parts; callers of its methods hold the lock."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}  # in order of creation, which is the order of their ids
        self._events: list[Event] = []
        self._trail: list[AuditEntry] = []
        self._keys: dict[tuple[str, str], tuple[str, str, datetime]] = {}
        self._lock = threading.RLock()

    def _entry(self, search_id: str, tenant: str | None = None) -> Entry:
        entry = self._entries.get(search_id)
        if entry is None or tenant not in (None, entry.job.tenant):
            raise rules.no_search(search_id)
        return entry

    def _owned(self, search_id: str, attempt: int) -> Entry:
        entry = self._entry(search_id)
        if entry.job.state not in rules.OWNED or entry.job.attempt != attempt:
            raise rules.lease_lost(search_id, attempt, entry.job.state, entry.job.attempt)
        return entry

    def _queue(self, entry: Entry, reason: str | None) -> SearchJob:
        return self._leave(entry, state=SearchState.QUEUED, state_reason=reason)

    def _pause(self, entry: Entry, reason: str = rules.PAUSED) -> SearchJob:
        return self._leave(entry, state=SearchState.PAUSED, state_reason=reason, pause_requested=False)

    def _leave(self, entry: Entry, **values: Any) -> SearchJob:
        entry.put_back_running_trials()
        entry.change(lease_expires_at=None, owner=None, host=None, **values)
        self._tell_state(entry)
        return entry.job

    def _end(self, entry: Entry, state: SearchState, reason: str | None) -> SearchJob:
        for number, stored in entry.trials.items():
            if stored.ended_at is None:
                trial = stored.trial.with_outcome(rules.LEFT_OVER)
                entry.trials[number] = replace(stored, trial=trial, ended_at=now())
        at_rest = {"lease_expires_at": None, "owner": None, "host": None}
        entry.change(state=state, state_reason=reason, finished_at=now(), **at_rest)
        entry.close_attempt(rules.ending(state, reason))
        self._tell_state(entry)
        self._emit(entry, EventKind.END, {"state": state.value, "reason": reason})
        return entry.job

    def _tell_state(self, entry: Entry) -> None:
        self._emit(entry, EventKind.STATE, rules.state_news(entry.job))

    def _emit(self, entry: Entry, kind: EventKind, data: Mapping[str, Any]) -> None:
        job = entry.job
        self._events.append(Event(len(self._events) + 1, job.id, job.tenant, kind, data, now()))

    def _note(self, job: SearchJob, action: Action, origin: Origin) -> SearchJob:
        """Note who changed the search, once it is changed; returns it."""
        entry_id = new_id("audt_")
        self._trail.append(AuditEntry(entry_id, job.tenant, action, job.id, rules.standing(job), now(), origin))
        return job


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def after(seconds: float) -> datetime:
    """So many seconds from now."""
    return now() + timedelta(seconds=seconds)


def trial_of(entry: Entry, number: int) -> StoredTrial:
    """One trial; NotFoundError when there is none."""
    try:
        return entry.trials[number]
    except KeyError:
        raise rules.no_trial(entry.job.id, number) from None


def open_trial(entry: Entry, number: int) -> StoredTrial:
    """One trial that has not ended; StateConflictError for one that has."""
    stored = trial_of(entry, number)
    if stored.trial.state.is_terminal:
        raise rules.already_told(entry.job.id, number)
    return stored
