"""What clients do to searches: order, change, cancel, pause, resume."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from automl_prune.loop.audit import HERE, Action, Origin
from automl_prune.loop.job import DEFAULT_TENANT, SearchJob, SearchState, Submission
from automl_prune.loop.ports import UNLIMITED, Idempotency, QueueLimits
from automl_prune.storage import rules
from automl_prune.storage.ids import new_search_id
from automl_prune.storage.memory.entries import Entry, Steps, now


class Orders(Steps):
    """The part of the store that serves those who order."""

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
        """Queue a search."""
        copy = rules.plain(spec, "The spec")
        with self._lock:
            self._check_room(tenant, origin.key_id, queue)
            moment = now()
            job = SearchJob(
                id=new_search_id(),
                spec=copy,
                state=SearchState.QUEUED,
                created_at=moment,
                updated_at=moment,
                name=None if name is None else rules.text(name),
                labels=_labels(labels),
                tenant=tenant,
                priority=priority,
                key_id=origin.key_id,
            )
            self._entries[job.id] = Entry(job)
            self._tell_state(self._entries[job.id])
            self._note(job, Action.ORDER, origin)
            return job

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
        """Queue a search unless the tenant's key came before; IdempotencyError when it came with another fingerprint."""
        with self._lock:
            if (before := self.ordered_before(idempotency, tenant=tenant)) is not None:
                return Submission(before, replayed=True)
            told: dict[str, Any] = {"name": name, "labels": labels, "tenant": tenant, "priority": priority}
            job = self.add_search(spec, **told, queue=queue, origin=origin)
            self._keys[tenant, idempotency.key] = (idempotency.fingerprint, job.id, now())
            return Submission(job, replayed=False)

    def _check_room(self, tenant: str, key_id: str | None, queue: QueueLimits) -> None:
        jobs = [entry.job for entry in self._entries.values() if entry.job.tenant == tenant]
        waiting = [job.key_id for job in jobs if job.state in rules.AT_REST]
        for most, found in ((queue.of_tenant, len(waiting)), (queue.of_key, waiting.count(key_id))):
            if most is not None:
                rules.check_room(found, most)

    def ordered_before(self, idempotency: Idempotency, *, tenant: str = DEFAULT_TENANT) -> SearchJob | None:
        """The search that the tenant's key made, or None; IdempotencyError when it came with another fingerprint."""
        with self._lock:
            self._forget_keys()
            first = self._keys.get((tenant, idempotency.key))
            if first is None:
                return None
            fingerprint, search_id, _ = first
            rules.check_key(idempotency, fingerprint)
            return self._entry(search_id).job

    def _forget_keys(self) -> None:
        oldest = now() - timedelta(hours=rules.KEY_HOURS)
        self._keys = {key: value for key, value in self._keys.items() if value[2] >= oldest}

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
        """Change what is given; PreconditionError when the search has another version than expected."""
        changes: dict[str, Any] = {}
        if name is not None:
            changes["name"] = rules.text(name) or None
        if labels is not None:
            changes["labels"] = _labels(labels)
        with self._lock:
            entry = self._entry(search_id, tenant)
            rules.check_version(search_id, entry.job.version, expected_version)
            if priority is not None:
                rules.check_priority(search_id, entry.job.state)
                changes["priority"] = priority
            return self._note(entry.change(**changes), Action.CHANGE, origin)

    def request_cancel(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Cancel a waiting or paused search at once, ask a running one to stop; StateConflictError when it already ended."""
        with self._lock:
            entry = self._entry(search_id, tenant)
            rules.check_version(search_id, entry.job.version, expected_version)
            rules.check_cancel(search_id, entry.job.state)
            if entry.job.cancel_requested:
                return entry.job
            entry.touch(cancel_requested=True)
            at_rest = entry.job.state in rules.AT_REST
            job = self._end(entry, SearchState.CANCELLED, rules.CANCELLED) if at_rest else self._requested(entry)
            return self._note(job, Action.CANCEL, origin)

    def request_pause(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Pause a queued search at once, ask a driven one to be given back; asking twice is asking once."""
        with self._lock:
            entry = self._entry(search_id, tenant)
            rules.check_version(search_id, entry.job.version, expected_version)
            rules.check_pause(search_id, entry.job.state, entry.job.cancel_requested)
            if entry.job.state is SearchState.QUEUED:
                return self._note(self._pause(entry), Action.PAUSE, origin)
            if entry.job.state is SearchState.PAUSED or entry.job.pause_requested:
                return entry.job
            entry.touch(pause_requested=True)
            return self._note(self._requested(entry), Action.PAUSE, origin)

    def request_resume(
        self,
        search_id: str,
        *,
        expected_version: int | None = None,
        tenant: str | None = None,
        origin: Origin = HERE,
    ) -> SearchJob:
        """Queue a paused search again, or take back a request to pause; StateConflictError when there is neither."""
        with self._lock:
            entry = self._entry(search_id, tenant)
            rules.check_version(search_id, entry.job.version, expected_version)
            rules.check_resume(search_id, entry.job.state, entry.job.pause_requested)
            if entry.job.state is SearchState.PAUSED:
                return self._note(self._queue(entry, rules.RESUMED), Action.RESUME, origin)
            entry.touch(pause_requested=False)
            return self._note(self._requested(entry), Action.RESUME, origin)

    def _requested(self, entry: Entry) -> SearchJob:
        job = entry.change()
        self._tell_state(entry)
        return job


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {rules.text(key): rules.text(value) for key, value in labels.items()}
