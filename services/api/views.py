"""Nouns as the JSON that clients see."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import quote

from automl_prune.loop.arms import CONTROLS
from automl_prune.loop.audit import AuditEntry
from automl_prune.loop.family import weights_file
from automl_prune.loop.job import Artifact, SearchAttempt, SearchJob, StoredTrial
from automl_prune.problem import Objective
from automl_prune.trial import TrialState
from services.api.standings import ARMS

Progress = Mapping[str, Mapping[str, int]]


def search(job: SearchJob, progress: Progress, best: Mapping[str, StoredTrial], *, base_url: str | None) -> dict[str, Any]:
    """A search; ``best`` is what Standings found, ``progress`` counts trials by arm and state."""
    return {
        "id": job.id,
        "name": job.name,
        "labels": dict(job.labels),
        "state": job.state,
        "state_reason": job.state_reason,
        "cancel_requested": job.cancel_requested,
        "spec": job.spec,
        "progress": _progress(job, progress),
        "best": trial(best["search"], job) if "search" in best else None,
        "controls": {arm: trial(best[arm], job) for arm in CONTROLS if arm in best},
        "base": {**job.info.get("base", {}), **(best["base"].trial.metrics if "base" in best else {})},
        "info": job.info,
        "result_ready": job.has_result,
        "attempt": job.attempt,
        "created_at": _time(job.created_at),
        "updated_at": _time(job.updated_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "links": _links(job, base_url),
    }


def family(job: SearchJob) -> list[int]:
    """Numbers of the trials that a search's strategy built on, so far; most strategies have none."""
    return list(job.info.get("family", ()))


def trial(stored: StoredTrial, job: SearchJob) -> dict[str, Any]:
    """A trial of ``job``, its widths by group name."""
    one = stored.trial
    widths = one.candidate.widths
    names = job.info.get("space", {}).get("names") or [str(i) for i in range(len(widths))]
    return {
        "number": one.number,
        "name": one.name,
        "arm": one.arm,
        "state": one.state,
        "attempt": one.attempt,
        "widths": dict(zip(names, widths, strict=True)),
        "metrics": one.metrics,
        "cost": one.outcome.cost if one.outcome else {},
        "reason": one.outcome.reason if one.outcome else None,
        "origin": one.origin,
        "parent": one.parent,
        "winner": (winner := one.number in family(job)),
        "weights": weights_file(one) if winner else None,
        "repaired": one.repaired,
        "asked_at": _time(stored.asked_at),
        "started_at": _time(stored.started_at),
        "ended_at": _time(stored.ended_at),
    }


def pareto(
    job: SearchJob, aim: Objective, costs: Sequence[str], fronts: Mapping[str, Sequence[StoredTrial]]
) -> dict[str, Any]:
    """The fronts over the objective and costs, by arm; ``items`` is the search's own, ``cost`` the first of ``costs``."""
    shown = {arm: [trial(t, job) for t in found] for arm, found in fronts.items()}
    return {
        "objective": {"metric": aim.metric, "maximize": aim.maximize},
        "cost": {"metric": costs[0]},
        "costs": [{"metric": cost} for cost in costs],
        "items": shown.pop("search"),
        "controls": shown,
    }


def artifact(one: Artifact, job: SearchJob, base_url: str | None) -> dict[str, Any]:
    """A file of ``job``."""
    href = f"{_root(base_url)}/v1/searches/{job.id}/artifacts/{quote(one.name, safe='')}"
    return {"name": one.name, "size": one.size, "sha256": one.sha256, "href": href}


def search_path(job: SearchJob, base_url: str | None) -> str:
    """Where the search is, absolute when the service knows its public address."""
    return f"{_root(base_url)}/v1/searches/{job.id}"


def _progress(job: SearchJob, arms: Progress) -> dict[str, Any]:
    states = {state: sum(arms.get(arm, {}).get(state, 0) for arm in ARMS) for state in TrialState}
    return {
        "completed": states[TrialState.COMPLETE],
        "failed": states[TrialState.FAILED],
        "running": states[TrialState.RUNNING],
        "ended": sum(count for state, count in states.items() if state.is_terminal),
        "slots": job.info.get("executor", {}).get("workers"),
        "total": job.info.get("evaluations") or job.spec.get("trials", {}).get("max"),
        "arms": {arm: dict(counts) for arm, counts in arms.items()},
    }


def attempt(one: SearchAttempt) -> dict[str, Any]:
    """One claim of a search."""
    return {
        "number": one.number,
        "started_at": _time(one.started_at),
        "ended_at": _time(one.ended_at),
        "lost": one.lost,
        "reason": one.reason,
        "worker": None if one.worker is None else asdict(one.worker),
    }


def audit_entry(entry: AuditEntry) -> dict[str, Any]:
    """A change, and who made it."""
    return {
        "id": entry.id,
        "at": _time(entry.at),
        "tenant": entry.tenant,
        "action": entry.action,
        "object": entry.object_id,
        "result": entry.result,
        "key_id": entry.origin.key_id,
        "ip": entry.origin.ip,
        "request_id": entry.origin.request_id,
    }


def _links(job: SearchJob, base_url: str | None) -> dict[str, str | None]:
    here = search_path(job, base_url)
    parts = {part: f"{here}/{part}" for part in ("trials", "attempts", "best", "pareto", "artifacts", "events", "logs")}
    page = f"{_root(base_url)}/searches/{job.id}"
    return {"self": here, **parts, "page": page, "ray_dashboard": job.info.get("links", {}).get("ray_dashboard")}


def _root(base_url: str | None) -> str:
    return (base_url or "").rstrip("/")


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
