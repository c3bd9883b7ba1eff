"""What launchers and drivers do to searches: claim, renew, move on, give back; and what drivers leave behind."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from automl_prune.loop.job import Artifact, SearchAttempt, SearchJob, SearchState, Worker
from automl_prune.loop.ports import Limits
from automl_prune.storage import rules
from automl_prune.storage.memory.entries import Entry, Steps, after, now


class Driving(Steps):
    """The part of the store that serves launchers and drivers."""

    def claim(
        self,
        *,
        lease_seconds: float,
        worker: Worker | None = None,
        limits: Limits | None = None,
        most_losses: int | None = None,
    ) -> SearchJob | None:
        """Take the search of the highest priority, the oldest first, that is queued or whose lease ran out."""
        with self._lock:
            for entry in self._claimable():
                if not self._is_full(entry, limits) and not self._settled(entry, most_losses):
                    return self._take(entry, lease_seconds, worker)
        return None

    def _claimable(self) -> Iterator[Entry]:
        waiting = [entry for entry in self._entries.values() if _is_claimable(entry.job)]
        return iter(sorted(waiting, key=lambda entry: (-entry.job.priority, entry.job.id)))

    def _is_full(self, entry: Entry, limits: Limits | None) -> bool:
        limit = rules.limit_of(limits, entry.job.key_id)
        if limit is None:
            return False
        others = (e.job for e in self._entries.values() if e is not entry and e.job.key_id == entry.job.key_id)
        return sum(job.state in rules.OWNED for job in others) >= limit

    def _settled(self, entry: Entry, most_losses: int | None) -> bool:
        """Whether a search that looks for a driver needs none: it was to be stopped, or too many were lost."""
        if entry.job.lease_expires_at is None:
            return False
        entry.close_attempt(rules.LAPSED, lost=True)
        job = entry.touch(losses=entry.job.losses + 1)
        if job.cancel_requested:
            self._end(entry, SearchState.CANCELLED, rules.CANCELLED)
        elif rules.too_many(job.losses, most_losses):
            self._end(entry, SearchState.FAILED, rules.lost(job.losses, most_losses, rules.LAPSED))
        elif job.pause_requested:
            self._pause(entry)
        else:
            return False
        return True

    def settle_lapsed(self, *, most_losses: int | None = None) -> int:
        """Put searches right whose lease ran out, whether or not there is room for them; returns how many."""
        with self._lock:
            lapsed = [entry for entry in self._entries.values() if _is_lapsed(entry.job)]
            for entry in lapsed:
                if not self._settled(entry, most_losses):
                    self._queue(entry, f"queued again: {rules.lost(entry.job.losses, most_losses, rules.LAPSED)}")
            return len(lapsed)

    def _take(self, entry: Entry, lease_seconds: float, worker: Worker | None) -> SearchJob:
        moment, number = now(), entry.job.attempt + 1
        fresh = entry.job.lease_expires_at is None
        entry.put_back_running_trials()
        entry.attempts.append(SearchAttempt(number, moment, worker=worker))
        entry.change(
            state=SearchState.PREPARING,
            state_reason=rules.STARTING if fresh else rules.taken_over(entry.job.attempt),
            attempt=number,
            lease_expires_at=after(lease_seconds),
            started_at=entry.job.started_at or moment,
            **_holder(worker),
        )
        self._tell_state(entry)
        return entry.job

    def renew(self, search_id: str, attempt: int, *, lease_seconds: float, worker: Worker | None = None) -> SearchJob:
        """Extend the lease and read the search, without its snapshot and result; ``worker`` is who drives it from now on."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            job = entry.touch(lease_expires_at=after(lease_seconds))
            if worker is not None:
                job = entry.touch(**_holder(worker))
                entry.attempts[-1] = replace(entry.attempts[-1], worker=worker)
        return replace(job, snapshot=None, result=None)

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
        why = None if reason is None else rules.text(reason)
        with self._lock:
            entry = self._owned(search_id, attempt)
            job = entry.touch(info={**entry.job.info, **news})
            if found is not None:
                entry.touch(result=found, has_result=True)
            if state.is_terminal:
                self._end(entry, state, why)
                return
            entry.change(state=state, state_reason=why)
            if (job.state, job.state_reason) != (state, why):
                self._tell_state(entry)

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
        """Give a claimed search back: cancelled or paused when that was requested, failed, or else queued."""
        why = rules.text(reason)
        with self._lock:
            entry = self._owned(search_id, attempt)
            entry.close_attempt(why, lost=lost)
            job = entry.touch(losses=entry.job.losses + lost)
            told = rules.lost(job.losses, most_losses, why) if lost else why
            if job.cancel_requested:
                return self._end(entry, SearchState.CANCELLED, told)
            if lost and rules.too_many(job.losses, most_losses):
                return self._end(entry, SearchState.FAILED, told)
            if hold or job.pause_requested:
                return self._pause(entry, why if hold else rules.PAUSED)
            return self._queue(entry, f"queued again: {told}" if lost else told)

    def save_snapshot(self, search_id: str, attempt: int, snapshot: Mapping[str, Any]) -> None:
        """Replace the search's snapshot."""
        copy = rules.plain(snapshot, "The snapshot")
        with self._lock:
            self._owned(search_id, attempt).touch(snapshot=copy)

    def add_artifact(self, search_id: str, attempt: int, artifact: Artifact) -> None:
        """Record a finished file; a second one of the same name replaces it."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            entry.artifacts[artifact.name] = artifact
            entry.touch()


def _is_claimable(job: SearchJob) -> bool:
    return job.state is SearchState.QUEUED or _is_lapsed(job)


def _is_lapsed(job: SearchJob) -> bool:
    return job.lease_expires_at is not None and job.lease_expires_at <= now()


def _holder(worker: Worker | None) -> dict[str, str | None]:
    return {"owner": worker.name if worker else None, "host": worker.host if worker else None}
