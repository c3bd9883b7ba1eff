"""What anybody reads."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_, union_all
from sqlalchemy.orm import Session, aliased

from automl_prune.loop.audit import AuditEntry
from automl_prune.loop.job import Artifact, Event, SearchAttempt, SearchJob, SearchState, StoredTrial
from automl_prune.storage import rows, rules
from automl_prune.storage.sql.steps import Steps, find, known, whole
from automl_prune.storage.tables import ArtifactRow, AttemptRow, EventRow, LabelRow, SearchRow, TrialCountRow, TrialRow


class Queries(Steps):
    """The part of the store that answers."""

    def get_search(self, search_id: str, *, tenant: str | None = None) -> SearchJob:
        """One search."""
        with self.database.read() as session:
            return whole(session, find(session, search_id, tenant=tenant, result=True))

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
        query, place = select(SearchRow), SearchRow.id
        if label is not None:
            key, value = map(rules.text, label)
            query = query.join(LabelRow).where(LabelRow.key == key, LabelRow.value == value)
            place = LabelRow.search_id  # the same, but in the order of the labels' index
        if strategy is not None:
            query = query.where(SearchRow.strategy == strategy)
        if before is not None:
            query = query.where(place < before)
        query = query.where(*_of(states, tenant)).order_by(place.desc()).limit(limit)
        with self.database.read() as session:
            return [rows.job(row) for row in session.scalars(query)]

    def count_searches(
        self, *, states: Sequence[SearchState] = (), key_id: str | None = None, tenant: str | None = None
    ) -> int:
        """How many searches there are, that this API key ordered if one is given."""
        conditions = _of(states, tenant)
        if key_id is not None:
            conditions.append(SearchRow.key_id == key_id)
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(SearchRow).where(*conditions)) or 0

    def ahead_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, int]:
        """How many queued searches, of anybody, are claimed before these, by id; only those that are queued are in it."""
        queued, earlier = SearchState.QUEUED.value, aliased(SearchRow)
        before = and_(earlier.priority == SearchRow.priority, earlier.id < SearchRow.id)
        goes_first = (
            earlier.finished_at.is_(None),
            earlier.state == queued,
            or_(earlier.priority > SearchRow.priority, before),
        )
        count = select(func.count()).select_from(earlier).where(*goes_first).correlate(SearchRow).scalar_subquery()
        mine = (SearchRow.id.in_(search_ids), SearchRow.state == queued)
        with self.database.read() as session:
            found = session.execute(select(SearchRow.id, count).where(*mine, *_of((), tenant)))
            return {row.id: row[1] for row in found}

    def attempts(self, search_id: str, *, tenant: str | None = None) -> list[SearchAttempt]:
        """Every claim of the search, oldest first."""
        query = select(AttemptRow).where(AttemptRow.search_id == search_id).order_by(AttemptRow.attempt)
        with self.database.read() as session:
            known(session, search_id, tenant)
            return [rows.attempt(row) for row in session.scalars(query)]

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
        query = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.number > after)
        if arm is not None:
            query = query.where(TrialRow.arm == arm)
        if state is not None:
            query = query.where(TrialRow.state == state)
        if numbers is not None:
            query = query.where(TrialRow.number.in_(list(numbers)))
        with self.database.read() as session:
            known(session, search_id, tenant)
            return [rows.trial(row) for row in session.scalars(query.order_by(TrialRow.number).limit(limit))]

    def trial(self, search_id: str, number: int, *, tenant: str | None = None) -> StoredTrial:
        """One trial."""
        with self.database.read() as session:
            known(session, search_id, tenant)
            row = session.get(TrialRow, (search_id, number))
            if row is None:
                raise rules.no_trial(search_id, number)
            return rows.trial(row)

    def trials_by_key(self, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], StoredTrial]:
        """Trials of several searches at once, by search and number; those that are not found are left out."""
        query = select(TrialRow).where(tuple_(TrialRow.search_id, TrialRow.number).in_(list(keys)))
        with self.database.read() as session:
            return {(row.search_id, row.number): rows.trial(row) for row in session.scalars(query)}

    def progress(self, search_id: str, *, tenant: str | None = None) -> dict[str, dict[str, int]]:
        """Number of trials by arm and state."""
        found = self.progress_of([search_id], tenant=tenant)
        if search_id not in found:
            raise rules.no_search(search_id)
        return found[search_id]

    def progress_of(self, search_ids: Sequence[str], *, tenant: str | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Number of trials by arm and state, by search; searches that are not found are left out."""
        searches = select(SearchRow.id).where(SearchRow.id.in_(search_ids), *_of((), tenant))
        key = (TrialRow.search_id, TrialRow.arm, TrialRow.state)
        still_open = select(*key, func.count()).where(TrialRow.search_id.in_(search_ids), TrialRow.ended_at.is_(None))
        count = TrialCountRow
        ended = select(count.search_id, count.arm, count.state, count.number).where(count.search_id.in_(search_ids))
        trials = union_all(ended, still_open.group_by(*key))
        with self.database.read() as session:
            counts: dict[str, dict[str, dict[str, int]]] = {found: {} for found in session.scalars(searches)}
            for search_id, arm, state, number in session.execute(trials):
                if search_id in counts:
                    counts[search_id].setdefault(arm, {})[state] = number
        return counts

    def artifacts(self, search_id: str, *, tenant: str | None = None) -> list[Artifact]:
        """The search's files by name."""
        query = select(ArtifactRow).where(ArtifactRow.search_id == search_id)
        with self.database.read() as session:
            known(session, search_id, tenant)
            found = [Artifact(row.name, row.size, row.sha256) for row in session.scalars(query)]
        return sorted(found, key=lambda artifact: artifact.name)  # here, because collations differ

    def events(
        self, search_id: str | None = None, *, tenant: str | None = None, after: int = 0, limit: int = 100
    ) -> list[Event]:
        """Events of a search, of a tenant's searches, or all; those that follow ``after``, the last id that was read."""
        query = select(EventRow).limit(limit)
        with self.database.read() as session:
            if search_id is not None:
                known(session, search_id, tenant)
                query = query.where(EventRow.search_id == search_id, EventRow.id > after).order_by(EventRow.id)
            else:
                query = query.where(self._settled_after(session, after)).order_by(EventRow.txid, EventRow.id)
                query = query if tenant is None else query.where(EventRow.tenant == tenant)
            return [rows.event(row) for row in session.scalars(query)]

    def audit(
        self, *, object_id: str | None = None, limit: int = 50, before: str | None = None, tenant: str | None = None
    ) -> list[AuditEntry]:
        """What was changed, newest first, of an object or all: searches, and whatever else is in the database."""
        return self._trail.entries(object_id=object_id, limit=limit, before=before, tenant=tenant)

    def _settled_after(self, session: Session, after: int) -> ColumnElement[bool]:
        """Condition on events that follow one, and that no running transaction can still come before."""
        if not self.database.on_postgresql:
            return and_(EventRow.txid == 0, EventRow.id > after)  # one writer at a time: numbers rise with commits
        place = select(EventRow.txid).where(EventRow.id <= after).order_by(EventRow.id.desc()).limit(1)
        later = tuple_(EventRow.txid, EventRow.id) > (session.scalar(place) or 0, after)
        return and_(later, EventRow.txid < func.txid_snapshot_xmin(func.txid_current_snapshot()))


def _of(states: Sequence[SearchState], tenant: str | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if states:
        conditions.append(SearchRow.state.in_([state.value for state in states]))
    if tenant is not None:
        conditions.append(SearchRow.tenant == tenant)
    return conditions
