"""A store in memory: for searches that run inside one process, and for tests. Forgets everything with its process."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from automl_prune.loop.job import Artifact, SearchJob, SearchState, StoredTrial
from automl_prune.space import Candidate
from automl_prune.storage import rules
from automl_prune.storage.ids import new_search_id
from automl_prune.trial import Outcome, Trial, TrialState


@dataclass
class _Entry:
    job: SearchJob
    trials: dict[int, StoredTrial] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    events: int = 0

    def change(self, **values: Any) -> SearchJob:
        self.job = replace(self.job, updated_at=datetime.now(UTC), **values)
        return self.job

    def end(self, state: SearchState, **values: Any) -> SearchJob:
        now = datetime.now(UTC)
        for number, stored in self.trials.items():
            if stored.ended_at is None:
                trial = stored.trial.with_outcome(rules.LEFT_OVER)
                self.trials[number] = replace(stored, trial=trial, ended_at=now)
        return self.change(state=state, finished_at=now, lease_expires_at=None, **values)

    def put_back_running_trials(self) -> None:
        for number, stored in self.trials.items():
            if stored.trial.state is TrialState.RUNNING:
                self.trials[number] = replace(stored, trial=replace(stored.trial, state=TrialState.PENDING))

    def next_event(self) -> int:
        self.events += 1
        return self.events


class MemoryStore:
    """Keeps searches in memory; safe to share between threads, and otherwise the same as a database."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}  # in order of creation, which is the order of their ids
        self._lock = threading.RLock()

    def add_search(self, spec: Mapping[str, Any], *, name: str | None, labels: Mapping[str, str]) -> SearchJob:
        """Queue a search."""
        copy = rules.plain(spec, "The spec")
        with self._lock:
            now = datetime.now(UTC)
            job = SearchJob(
                id=new_search_id(),
                spec=copy,
                state=SearchState.QUEUED,
                created_at=now,
                updated_at=now,
                name=None if name is None else rules.text(name),
                labels={rules.text(k): rules.text(v) for k, v in labels.items()},
            )
            self._entries[job.id] = _Entry(job)
            return job

    def get_search(self, search_id: str) -> SearchJob:
        """One search."""
        with self._lock:
            return self._entry(search_id).job

    def list_searches(
        self,
        *,
        states: Sequence[SearchState] = (),
        strategy: str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[SearchJob]:
        """Searches newest first, without their snapshots; ``before`` is the last id of the previous page."""
        with self._lock:
            jobs = [e.job for e in reversed(self._entries.values()) if before is None or e.job.id < before]
        found = [
            replace(job, snapshot=None)
            for job in jobs
            if (not states or job.state in states)
            and (strategy is None or rules.strategy_of(job.spec) == strategy)
            and (label is None or job.labels.get(rules.text(label[0])) == rules.text(label[1]))
        ]
        return found[:limit]

    def claim(self, *, lease_seconds: float) -> SearchJob | None:
        """Take the oldest search that is queued, or whose lease ran out, as its next attempt; None when there is none."""
        with self._lock:
            for entry in self._entries.values():
                if not _claimable(entry.job):
                    continue
                if not entry.job.cancel_requested:
                    return self._take(entry, lease_seconds)
                entry.end(SearchState.CANCELLED)
        return None

    def _take(self, entry: _Entry, lease_seconds: float) -> SearchJob:
        job = entry.job
        entry.put_back_running_trials()
        return entry.change(
            state=SearchState.PREPARING,
            state_reason=rules.taken_over(job.attempt) if job.lease_expires_at else job.state_reason,
            attempt=job.attempt + 1,
            lease_expires_at=_in(lease_seconds),
            started_at=job.started_at or datetime.now(UTC),
        )

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float) -> SearchJob:
        """Extend the lease and read the search, without its snapshot."""
        with self._lock:
            job = self._owned(search_id, attempt).change(lease_expires_at=_in(lease_seconds))
        return replace(job, snapshot=None)

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
        """Move a claimed search on; top-level keys of ``info`` are merged into what is there."""
        rules.check_target(state)
        news, found = rules.plain(info or {}, "The info"), rules.plain(result, "The result")
        with self._lock:
            entry = self._owned(search_id, attempt)
            move = entry.end if state.is_terminal else entry.change
            move(
                state=state,
                state_reason=None if reason is None else rules.text(reason),
                info={**entry.job.info, **news},
                result=entry.job.result if found is None else found,
            )

    def release(self, search_id: str, attempt: int, *, reason: str) -> None:
        """Give a claimed search back to the queue, or end it when it was to be cancelled."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            if entry.job.cancel_requested:
                entry.end(SearchState.CANCELLED, state_reason=rules.text(reason))
            else:
                entry.put_back_running_trials()
                entry.change(state=SearchState.QUEUED, state_reason=rules.text(reason), lease_expires_at=None)

    def request_cancel(self, search_id: str) -> SearchJob:
        """Cancel a queued search at once, ask a running one to stop; StateConflictError when it already ended."""
        with self._lock:
            entry = self._entry(search_id)
            if entry.job.state.is_terminal:
                raise rules.already_ended(search_id, entry.job.state)
            if entry.job.state is SearchState.QUEUED:
                return entry.end(SearchState.CANCELLED, cancel_requested=True)
            return entry.change(cancel_requested=True)

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        kept = Trial(
            number=trial.number,
            candidate=Candidate(tuple(int(w) for w in trial.candidate.widths)),
            arm=trial.arm,
            origin=rules.plain(trial.origin, "The trial's origin"),
            parent=trial.parent,
            repaired=trial.repaired,
        )
        with self._lock:
            entry = self._owned(search_id, attempt)
            if kept.number in entry.trials:
                raise rules.already_asked(search_id, kept.number)
            seq = entry.next_event()
            now = datetime.now(UTC)
            entry.trials[kept.number] = StoredTrial(kept, asked_seq=seq, told_seq=None, asked_at=now, ended_at=None)
            entry.change()
            return seq

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            stored = _open(entry, number)
            tries = stored.trial.attempt + (number in entry.started)
            entry.started.add(number)
            trial = replace(stored.trial, state=TrialState.RUNNING, attempt=tries)
            entry.trials[number] = replace(stored, trial=trial)
            entry.change()
            return tries

    def record_outcome(self, search_id: str, attempt: int, number: int, outcome: Outcome) -> int:
        """Store a trial's only outcome; returns its place in the event sequence. StateConflictError when it has one."""
        kept = rules.outcome_from_json(rules.outcome_to_json(outcome))
        with self._lock:
            entry = self._owned(search_id, attempt)
            stored = _open(entry, number)
            seq = entry.next_event()
            entry.trials[number] = replace(
                stored, trial=stored.trial.with_outcome(kept), told_seq=seq, ended_at=datetime.now(UTC)
            )
            entry.change()
            return seq

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        copy = rules.plain(snapshot, "The snapshot")
        with self._lock:
            self._owned(search_id, attempt).change(snapshot=copy)

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
        with self._lock:
            entries = sorted(self._entry(search_id).trials.items())
        found = [
            stored
            for number, stored in entries
            if number > after and (arm is None or stored.trial.arm == arm) and (state is None or stored.trial.state == state)
        ]
        return found[:limit]

    def trial(self, search_id: str, number: int) -> StoredTrial:
        """One trial."""
        with self._lock:
            return _trial(self._entry(search_id), number)

    def progress(self, search_id: str) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        counts: dict[str, dict[str, int]] = {}
        with self._lock:
            for stored in self._entry(search_id).trials.values():
                by_state = counts.setdefault(stored.trial.arm, {})
                by_state[stored.trial.state.value] = by_state.get(stored.trial.state.value, 0) + 1
        return counts

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            entry.artifacts[artifact.name] = artifact
            entry.change()

    def artifacts(self, search_id: str) -> list[Artifact]:
        """The search's files by name."""
        with self._lock:
            return [artifact for _, artifact in sorted(self._entry(search_id).artifacts.items())]

    def _entry(self, search_id: str) -> _Entry:
        try:
            return self._entries[search_id]
        except KeyError:
            raise rules.no_search(search_id) from None

    def _owned(self, search_id: str, attempt: int) -> _Entry:
        entry = self._entry(search_id)
        if entry.job.state not in rules.OWNED or entry.job.attempt != attempt:
            raise rules.lease_lost(search_id, attempt, entry.job.state, entry.job.attempt)
        return entry


def _claimable(job: SearchJob) -> bool:
    lapsed = job.lease_expires_at is not None and job.lease_expires_at <= datetime.now(UTC)
    return job.state is SearchState.QUEUED or lapsed


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _trial(entry: _Entry, number: int) -> StoredTrial:
    try:
        return entry.trials[number]
    except KeyError:
        raise rules.no_trial(entry.job.id, number) from None


def _open(entry: _Entry, number: int) -> StoredTrial:
    stored = _trial(entry, number)
    if stored.trial.state.is_terminal:
        raise rules.already_told(entry.job.id, number)
    return stored
