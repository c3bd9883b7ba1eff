"""Rows for tests/benchmarks/service.py: many searches and trials, loaded in bulk and not evaluated."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine, insert, text, update

from automl_prune.loop.job import EventKind, SearchState
from automl_prune.loop.spec import SearchSpec
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.storage.ids import new_search_id
from automl_prune.storage.rules import outcome_to_json
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.steps import recount
from automl_prune.storage.tables import EventRow, LabelRow, SearchRow, SnapshotRow, TrialRow
from automl_prune.strategies.base import Strategy
from automl_prune.trial import Outcome, Trial, TrialState

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "base_training": {"epochs": 1},
    "trials": {"max": 100_000},
}
GROUPS = 27
"""Widths of one candidate, as many as ResNet-56 has with its residual stages kept whole."""

_BATCH = 2000
_NOW = datetime.now(UTC)


def fill(store: SqlStore, searches: int, trials: int) -> list[str]:
    """Store searches that ended; the first has half of all trials, the others share the rest. Returns their ids."""
    spec = SearchSpec.parse(ORDER).model_dump(mode="json")
    ids = sorted(new_search_id() for _ in range(searches))
    shares = [trials // 2] + [trials // 2 // max(1, searches - 1)] * (searches - 1)
    _load(store.database.engine, SearchRow, (_search(i, spec, n) for i, n in zip(ids, shares, strict=True)))
    labels = ({"search_id": i, "key": "team", "value": f"team{n % 20}"} for n, i in enumerate(ids))
    _load(store.database.engine, LabelRow, labels)
    for number, count in zip(ids, shares, strict=True):
        _load(store.database.engine, TrialRow, (_trial(number, n) for n in range(count)))
        _load(store.database.engine, EventRow, (_event(number, n) for n in range(count)))
        _count(store, number)
    analyse(store)
    return ids


def converse(store: SqlStore, search_id: str, problem: Problem, strategy: Strategy, base: Strategy, told: int) -> None:
    """Store a search's conversation up to ``told`` trials of its strategy, as a controller would have; none is evaluated."""
    rows = []
    for number in range(told + 1):
        arm, asked = ("base", base) if number == 0 else ("search", strategy)
        proposal = asked.ask()
        assert proposal is not None
        trial = Trial(number, proposal.candidate, arm, proposal.origin, proposal.parent, proposal.repaired)
        outcome = score(problem, proposal.candidate)
        ended = Trial(number, trial.candidate, arm, trial.origin, trial.parent, trial.repaired, 1, outcome.state, outcome)
        asked.tell(ended)
        rows.append(_row(search_id, ended))
    _load(store.database.engine, TrialRow, iter(rows))
    _count(store, search_id)
    sequence = 2 * (told + 1)
    states = {"base": base.state_dict(), "search": strategy.state_dict()}
    with store.database.engine.begin() as connection:
        connection.execute(update(SearchRow).where(SearchRow.id == search_id).values(events=sequence))
        body = {"sequence": sequence, "strategies": states}
        connection.execute(insert(SnapshotRow).values(search_id=search_id, body=body))
    analyse(store)


def score(problem: Problem, candidate: Candidate) -> Outcome:
    """What an evaluator would say that does nothing."""
    top1 = sum(candidate.widths) % 997 / 1000
    return Outcome(TrialState.COMPLETE, {"top1": top1, **problem.costs(candidate)}, {"seconds": 0.0, "cpu_seconds": 0.0})


def analyse(store: SqlStore) -> None:
    """Let the database count, as it does by itself after a while."""
    with store.database.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


def _count(store: SqlStore, search_id: str) -> None:
    with store.database.write() as session:
        recount(session, search_id)


def _load(engine: Engine, table: Any, rows: Iterator[dict[str, Any]]) -> None:
    for batch in _batches(rows):
        with engine.begin() as connection:
            connection.execute(insert(table), batch)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := [row for row, _ in zip(rows, range(_BATCH), strict=False)]:
        yield batch


def _search(search_id: str, spec: dict[str, Any], trials: int) -> dict[str, Any]:
    names = [f"layer{n // 9 + 1}.{n % 9}.conv1" for n in range(GROUPS)]
    groups = [{"name": name, "width": 16, "full_width": 32, "members": [name, f"{name}.bn"]} for name in names]
    result = {"schema_version": 1, "search_id": search_id, "groups": groups, "metrics": {"top1": 0.9}}
    info = {"space": {"names": names, "full": [32] * GROUPS}, "evaluations": trials, "base": {"macs": 1e6}}
    return {
        "id": search_id,
        "name": f"search {search_id[-4:]}",
        "strategy": "random",
        "spec": spec,
        "state": SearchState.SUCCEEDED.value,
        "state_reason": "finished",
        "attempt": 1,
        "cancel_requested": False,
        "events": 2 * trials,
        "created_at": _NOW,
        "updated_at": _NOW,
        "started_at": _NOW,
        "finished_at": _NOW,
        "info": info,
        "result": result | {"kept_channels": {name: list(range(16)) for name in names}},
        "best": {"search": {"number": trials // 2, "value": 0.9}},
        "tenant": "default",
    }


def _trial(search_id: str, number: int) -> dict[str, Any]:
    widths = tuple(random.Random(number).choices(range(4, 33, 4), k=GROUPS))
    macs = sum(a * b for a, b in pairwise(widths))
    metrics = {"top1": random.Random(number).random() + macs / 1e5, "macs": macs, "params": 9 * macs, "flops": 2 * macs}
    outcome = Outcome(TrialState.COMPLETE, metrics, {"seconds": 1.0, "cpu_seconds": 1.0})
    arm = "random" if number % 2 else "search"
    return _row(search_id, Trial(number, Candidate(widths), arm, {"why": "bench"}, None, False, 1, outcome.state, outcome))


def _row(search_id: str, trial: Trial) -> dict[str, Any]:
    assert trial.outcome is not None
    return {
        "search_id": search_id,
        "number": trial.number,
        "arm": trial.arm,
        "state": trial.state.value,
        "attempt": 1,
        "widths": [int(width) for width in trial.candidate.widths],
        "origin": dict(trial.origin),
        "parent": trial.parent,
        "repaired": trial.repaired,
        "outcome": outcome_to_json(trial.outcome),
        "asked_seq": 2 * trial.number + 1,
        "told_seq": 2 * trial.number + 2,
        "asked_at": _NOW,
        "started_at": _NOW,
        "ended_at": _NOW + timedelta(milliseconds=trial.number),
    }


def _event(search_id: str, number: int) -> dict[str, Any]:
    data = {"number": number, "arm": "search", "attempt": 1, "state": "complete", "metrics": {"top1": 0.5}}
    return {
        "search_id": search_id,
        "tenant": "default",
        "kind": EventKind.COMPLETED.value,
        "data": data,
        "created_at": _NOW,
        "txid": 0,
    }
