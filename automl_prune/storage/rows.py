"""Between rows and nouns."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from automl_prune.loop.job import Best, Event, EventKind, SearchAttempt, SearchJob, SearchState, StoredTrial, Worker
from automl_prune.space import Candidate
from automl_prune.storage import rules
from automl_prune.storage.tables import AttemptRow, EventRow, SearchRow, TrialRow
from automl_prune.trial import Trial, TrialState


def job(row: SearchRow, snapshot: dict[str, Any] | None = None, result: dict[str, Any] | None = None) -> SearchJob:
    """The search of a row; what is large about it comes separately, where it is asked for."""
    return SearchJob(
        id=row.id,
        spec=row.spec,
        state=SearchState(row.state),
        created_at=row.created_at,
        updated_at=row.updated_at,
        name=row.name,
        labels={label.key: label.value for label in row.labels},
        state_reason=row.state_reason,
        attempt=row.attempt,
        lease_expires_at=row.lease_expires_at,
        cancel_requested=row.cancel_requested,
        started_at=row.started_at,
        finished_at=row.finished_at,
        info=row.info,
        has_result=row.has_result,
        result=result,
        snapshot=snapshot,
        tenant=row.tenant,
        priority=row.priority,
        pause_requested=row.pause_requested,
        version=row.version,
        losses=row.losses,
        owner=row.owner,
        host=row.host,
        key_id=row.key_id,
        best=best(row.best),
    )


def best(data: Mapping[str, Any] | None) -> dict[str, Best]:
    """The best trials by arm, of a row."""
    return {arm: Best(**found) for arm, found in (data or {}).items()}


def best_to_json(best: Mapping[str, Best]) -> dict[str, Any]:
    """The best trials by arm, for a row."""
    return {arm: asdict(found) for arm, found in best.items()}


def worker(worker: Worker | None) -> dict[str, Any]:
    """Column values of who holds an attempt."""
    return {} if worker is None else {"worker": worker.name, "host": worker.host, "pid": worker.pid}


def attempt(row: AttemptRow) -> SearchAttempt:
    """The attempt of a row."""
    who = None if row.worker is None else Worker(row.worker, row.host or "", row.pid or 0)
    return SearchAttempt(row.attempt, row.started_at, row.ended_at, row.reason, row.lost, who)


def event(row: EventRow) -> Event:
    """The event of a row."""
    return Event(row.id, row.search_id, row.tenant, EventKind(row.kind), row.data, row.created_at)


def trial(row: TrialRow) -> StoredTrial:
    """The trial of a row."""
    kept = Trial(
        number=row.number,
        candidate=Candidate(tuple(row.widths)),
        arm=row.arm,
        origin=row.origin,
        parent=row.parent,
        repaired=row.repaired,
        attempt=row.attempt,
        state=TrialState(row.state),
        outcome=None if row.outcome is None else rules.outcome_from_json(row.outcome),
    )
    return StoredTrial(kept, row.asked_seq, row.told_seq, row.asked_at, row.ended_at, row.started_at)


def asked(search_id: str, new: Trial, seq: int) -> dict[str, Any]:
    """Column values of a trial that is asked now, without its time."""
    return {
        "search_id": search_id,
        "number": new.number,
        "arm": new.arm,
        "state": TrialState.PENDING.value,
        "attempt": 1,
        "widths": [int(width) for width in new.candidate.widths],
        "origin": rules.plain(new.origin, "The trial's origin"),
        "parent": new.parent,
        "repaired": new.repaired,
        "asked_seq": seq,
    }
