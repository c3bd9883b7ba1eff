"""What drivers record about trials."""

from typing import Any

from sqlalchemy import Executable, Row, bindparam, case, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from automl_prune.loop.job import EventKind
from automl_prune.loop.standing import SEARCH, best_after
from automl_prune.storage import rows, rules
from automl_prune.storage.sql.steps import COUNTS, SEARCHES, TRIALS, Steps
from automl_prune.storage.tables import TrialRow
from automl_prune.trial import Outcome, Trial, TrialState


def _count(insert: Any) -> Executable:
    """One more trial of an arm that ended in a state."""
    one = insert(COUNTS).values(search_id=bindparam("of"), arm=bindparam("in_arm"), state=bindparam("as_state"), number=1)
    key = [COUNTS.c.search_id, COUNTS.c.arm, COUNTS.c.state]
    counted: Executable = one.on_conflict_do_update(index_elements=key, set_={"number": COUNTS.c.number + 1})
    return counted


_COUNT_ON_POSTGRESQL, _COUNT_ON_SQLITE = _count(postgresql.insert), _count(sqlite.insert)


class Trials(Steps):
    """The part of the store that keeps the conversation about trials."""

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        try:
            with self.database.write() as session:
                seq: int = self._own(session, search_id, attempt, events=SEARCHES.c.events + 1).events
                asked = rows.asked(search_id, trial, seq)
                session.execute(insert(TRIALS).values(**asked, asked_at=self.database.now()))
                return seq
        except IntegrityError:
            raise rules.already_asked(search_id, trial.number) from None

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        again = case((TRIALS.c.started_at.is_(None), 0), else_=1)
        with self.database.write() as session:
            owned = self._own(session, search_id, attempt)
            started = self._change_open(
                session,
                search_id,
                number,
                state=TrialState.RUNNING.value,
                attempt=TRIALS.c.attempt + again,
                started_at=self.database.now(),
            )
            news = rules.trial_news(number, started.arm, started.attempt)
            self._emit(session, search_id, owned.tenant, EventKind.STARTED, news)
            tries: int = started.attempt
            return tries

    def record_outcome(
        self, search_id: str, attempt: int, number: int, outcome: Outcome, *, trial_attempt: int | None = None
    ) -> int:
        """Store a trial's only outcome; LateOutcomeError when the trial was started again since ``trial_attempt``."""
        body = rules.outcome_to_json(outcome)
        with self.database.write() as session:
            standing = (SEARCHES.c.spec, SEARCHES.c.info, SEARCHES.c.best) if outcome.state is TrialState.COMPLETE else ()
            search = self._own(session, search_id, attempt, *standing, events=SEARCHES.c.events + 1, losses=0)
            values = {"state": body["state"], "outcome": body, "told_seq": search.events}
            ended = self._change_open(session, search_id, number, ended_at=self.database.now(), **values)
            if trial_attempt is not None and trial_attempt < ended.attempt:
                raise rules.late(search_id, number, trial_attempt, ended.attempt)
            session.execute(self._count(), {"of": search_id, "in_arm": ended.arm, "as_state": body["state"]})
            news = rules.trial_news(number, ended.arm, ended.attempt, body)
            self._emit(session, search_id, search.tenant, EventKind.COMPLETED, news)
            if standing:
                self._compare(session, search_id, search, number, ended.arm, outcome)
            seq: int = search.events
            return seq

    def _count(self) -> Executable:
        return _COUNT_ON_POSTGRESQL if self.database.on_postgresql else _COUNT_ON_SQLITE

    def _compare(self, session: Session, search_id: str, search: Row[Any], number: int, arm: str, outcome: Outcome) -> None:
        """Keep the trial as the best of its arm, if it is."""
        best = best_after(search.spec, search.info, rows.best(search.best), number, arm, outcome)
        if best is None:
            return
        session.execute(update(SEARCHES).where(SEARCHES.c.id == search_id).values(best=rows.best_to_json(best)))
        if arm == SEARCH:
            self._emit(session, search_id, search.tenant, EventKind.BEST, rules.best_news(number, outcome))

    def _change_open(self, session: Session, search_id: str, number: int, **values: Any) -> Row[Any]:
        """Change a trial that has no outcome; returns its ``attempt`` and ``arm``."""
        here = (TRIALS.c.search_id == search_id, TRIALS.c.number == number)
        change = update(TRIALS).where(*here, TRIALS.c.ended_at.is_(None)).values(**values)
        change = change.returning(TRIALS.c.attempt, TRIALS.c.arm)
        changed = session.execute(change).one_or_none()
        if changed is None:
            missing = session.get(TrialRow, (search_id, number)) is None
            raise rules.no_trial(search_id, number) if missing else rules.already_told(search_id, number)
        return changed
