"""Figures about everything in a database, for whoever watches over the service; no tenant is named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, tuple_, union_all

from automl_prune.loop.job import Event, EventKind, SearchState
from automl_prune.storage.sql.queries import Queries
from automl_prune.storage.tables import AttemptRow, SearchRow, TrialCountRow, TrialRow
from automl_prune.storage.watching import Watcher

_PAGE = 1000
_KEYS = 200


@dataclass(frozen=True)
class Figures:
    """How much there is at the moment.

    Attributes:
        searches, trials: Numbers by state.
        waiting_seconds: Since when the oldest search is queued; 0 when none is.
        lost: Drivers that were lost, ever.
    """

    searches: Mapping[str, int]
    trials: Mapping[str, int]
    waiting_seconds: float
    lost: int


@dataclass(frozen=True)
class Ended:
    """A trial that ended: how long it took from its start to its record, and for how long of that it was evaluated."""

    state: str
    seconds: float
    evaluated: float


class Statistics:
    """Figures of a store.

    Args:
        store: Its trials' ends are followed from now on.
    """

    def __init__(self, store: Queries) -> None:
        self._store, self._database = store, store.database
        self._after = Watcher(store.database).last()

    def figures(self) -> Figures:
        """What is there now."""
        by_state = select(SearchRow.state, func.count().label("number")).group_by(SearchRow.state)
        ended = select(TrialCountRow.state, TrialCountRow.number)
        still_open = select(TrialRow.state, func.count()).where(TrialRow.ended_at.is_(None)).group_by(TrialRow.state)
        counted = union_all(ended, still_open).subquery()
        trials = select(counted.c.state, func.sum(counted.c.number).label("number")).group_by(counted.c.state)
        oldest = select(func.min(SearchRow.created_at)).where(SearchRow.state == SearchState.QUEUED.value)
        with self._database.read() as session:
            since, now = session.scalar(oldest), session.scalar(select(self._database.now()))
            return Figures(
                searches={row.state: row.number for row in session.execute(by_state)},
                trials={row.state: int(row.number) for row in session.execute(trials)},
                waiting_seconds=0.0 if since is None or now is None else max(0.0, (now - since).total_seconds()),
                lost=session.scalar(select(func.count()).select_from(AttemptRow).where(AttemptRow.lost)) or 0,
            )

    def ended(self) -> Iterator[Ended]:
        """Trials that ended since this was asked before."""
        while events := self._store.events(after=self._after, limit=_PAGE):
            self._after = events[-1].id
            yield from self._ended([e for e in events if e.kind is EventKind.COMPLETED])

    def _ended(self, events: Sequence[Event]) -> Iterator[Ended]:
        columns = (TrialRow.state, TrialRow.started_at, TrialRow.ended_at, TrialRow.outcome)
        for start in range(0, len(events), _KEYS):
            some = events[start : start + _KEYS]
            here = tuple_(TrialRow.search_id, TrialRow.number).in_([(e.search_id, int(e.data["number"])) for e in some])
            with self._database.read() as session:
                rows = session.execute(select(*columns).where(here)).all()
            for state, started, ended, outcome in rows:
                if started is not None and ended is not None:
                    yield Ended(state, (ended - started).total_seconds(), float(outcome["cost"].get("seconds", 0.0)))
