"""What anybody reads."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from automl_prune.loop.audit import AuditEntry
from automl_prune.loop.job import Artifact, Event, SearchAttempt, SearchJob, SearchState, StoredTrial
from automl_prune.storage import rules
from automl_prune.storage.memory.entries import Steps, trial_of


class Queries(Steps):
    """The part of the store that answers."""

    def get_search(self, search_id: str, *, tenant: str | None = None) -> SearchJob:
        """One search."""
        with self._lock:
            return self._entry(search_id, tenant).job

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
        found = [
            replace(job, snapshot=None, result=None)
            for job in reversed(self._jobs(states, tenant))
            if (before is None or job.id < before)
            and (strategy is None or rules.strategy_of(job.spec) == strategy)
            and (label is None or job.labels.get(rules.text(label[0])) == rules.text(label[1]))
        ]
        return found[:limit]

    def count_searches(
        self, *, states: Sequence[SearchState] = (), key_id: str | None = None, tenant: str | None = None
    ) -> int:
        """How many searches there are, that this API key ordered if one is given."""
        return sum(key_id in (None, job.key_id) for job in self._jobs(states, tenant))

    def ahead_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, int]:
        """How many queued searches, of anybody, are claimed before these, by id; only those that are queued are in it."""
        queue = sorted(self._jobs([SearchState.QUEUED], None), key=lambda job: (-job.priority, job.id))
        return {job.id: before for before, job in enumerate(queue) if job.id in search_ids and tenant in (None, job.tenant)}

    def _jobs(self, states: Sequence[SearchState], tenant: str | None) -> list[SearchJob]:
        with self._lock:
            jobs = [entry.job for entry in self._entries.values()]
        return [job for job in jobs if (not states or job.state in states) and tenant in (None, job.tenant)]

    def attempts(self, search_id: str, *, tenant: str | None = None) -> list[SearchAttempt]:
        """Every claim of the search, oldest first."""
        with self._lock:
            return list(self._entry(search_id, tenant).attempts)

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
        """Trials in order of number, ``after`` the given number."""
        with self._lock:
            entries = sorted(self._entry(search_id, tenant).trials.items())
        found = [
            stored
            for number, stored in entries
            if number > after
            and (arm is None or stored.trial.arm == arm)
            and (state is None or stored.trial.state == state)
            and (numbers is None or number in numbers)
        ]
        return found[:limit]

    def trial(self, search_id: str, number: int, *, tenant: str | None = None) -> StoredTrial:
        """One trial."""
        with self._lock:
            return trial_of(self._entry(search_id, tenant), number)

    def trials_by_key(self, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], StoredTrial]:
        """Trials of several searches at once, by search and number; those that are not found are left out."""
        with self._lock:
            places = ((key, self._entries.get(key[0])) for key in set(keys))
            return {key: entry.trials[key[1]] for key, entry in places if entry is not None and key[1] in entry.trials}

    def progress(self, search_id: str, *, tenant: str | None = None) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        counts: dict[str, dict[str, int]] = {}
        with self._lock:
            for stored in self._entry(search_id, tenant).trials.values():
                by_state = counts.setdefault(stored.trial.arm, {})
                by_state[stored.trial.state.value] = by_state.get(stored.trial.state.value, 0) + 1
        return counts

    def progress_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Number of trials by arm and state, by search; searches that are not found are left out."""
        with self._lock:
            wanted = [entry.job for search_id in set(search_ids) if (entry := self._entries.get(search_id))]
        return {job.id: self.progress(job.id) for job in wanted if tenant in (None, job.tenant)}

    def artifacts(self, search_id: str, *, tenant: str | None = None) -> list[Artifact]:
        """The search's files by name."""
        with self._lock:
            return [artifact for _, artifact in sorted(self._entry(search_id, tenant).artifacts.items())]

    def events(
        self, search_id: str | None = None, *, tenant: str | None = None, after: int = 0, limit: int = 100
    ) -> list[Event]:
        """Events of a search, of a tenant's searches, or all; those that follow ``after``, the last id that was read."""
        with self._lock:
            if search_id is not None:
                self._entry(search_id, tenant)
            later = self._events[max(0, after) :]
        mine = (e for e in later if search_id in (None, e.search_id) and tenant in (None, e.tenant))
        return [event for event, _ in zip(mine, range(limit), strict=False)]

    def audit(
        self, *, object_id: str | None = None, limit: int = 50, before: str | None = None, tenant: str | None = None
    ) -> list[AuditEntry]:
        """What was changed, newest first, of a search or all; ``before`` is the last id of the previous page."""
        with self._lock:
            found = [
                entry
                for entry in reversed(self._trail)
                if object_id in (None, entry.object_id)
                and tenant in (None, entry.tenant)
                and (before is None or entry.id < before)
            ]
        return found[:limit]
