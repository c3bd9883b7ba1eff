"""Webhooks: who wants to be told of which events, and how far that is."""

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Executable, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from automl_prune.errors import NotFoundError, PreconditionError, StateConflictError
from automl_prune.loop.audit import HERE, Action, Origin
from automl_prune.loop.job import Event, EventKind
from automl_prune.storage import rows, rules
from automl_prune.storage.sql.queries import Queries
from automl_prune.storage.tables import DeliveryRow, EventRow, WebhookRow
from automl_prune.storage.trail import Trail
from automl_prune.storage.watching import Watcher

MOST = 20
"""Webhooks of a tenant."""
CLAIM_SECONDS = 60.0
"""For how long nobody else takes up a delivery that is being sent."""
PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0)
"""Seconds before a delivery is sent again; after the last one it is given up."""
PATIENCE = 20
"""Failures in a row, of whichever deliveries, after which a webhook is disabled."""

_PAGE = 200
_OPEN = (DeliveryRow.delivered_at.is_(None), DeliveryRow.next_at.is_not(None))
"""Of deliveries that are still to arrive."""


@dataclass(frozen=True)
class Webhook:
    """Where to send events of these kinds; its secret is not told again."""

    id: str
    tenant: str
    url: str
    kinds: Sequence[str]
    created_at: datetime
    disabled_at: datetime | None
    failures: int


@dataclass(frozen=True)
class Delivery:
    """An event on its way, the ``attempt``-th time."""

    id: int
    webhook_id: str
    url: str
    secret: str = field(repr=False)
    event: Event
    attempt: int


class Webhooks:
    """The webhooks of a store; several senders may share them.

    Args:
        store: Whose events are sent.
    """

    def __init__(self, store: Queries) -> None:
        self._store, self._database = store, store.database
        self._trail = Trail(store.database)

    def create(self, tenant: str, url: str, secret: str, kinds: Collection[str], *, origin: Origin = HERE) -> Webhook:
        """A webhook for events from now on; StateConflictError when the tenant has too many."""
        position = Watcher(self._database).last()
        with self._database.write(through=True) as session:
            self._database.one_by_one(session, "webhooks", tenant)
            if len(session.scalars(select(WebhookRow.id).where(WebhookRow.tenant == tenant)).all()) >= MOST:
                raise StateConflictError(f"There are {MOST} webhooks, the most there can be; delete one.")
            row = WebhookRow(
                id=f"whk_{secrets.token_hex(8)}",
                tenant=tenant,
                url=url,
                secret=secret,
                kinds=sorted(kinds),
                created_at=self._database.now(),
                failures=0,
                position=position,
            )
            session.add(row)
            self._trail.note(session, Action.CREATE_WEBHOOK, tenant, row.id, "enabled", origin)
            session.flush()
            session.refresh(row)
            return _webhook(row)

    def known(self, tenant: str) -> list[Webhook]:
        """The tenant's webhooks, oldest first."""
        query = select(WebhookRow).where(WebhookRow.tenant == tenant).order_by(WebhookRow.created_at, WebhookRow.id)
        with self._database.read() as session:
            return [_webhook(row) for row in session.scalars(query)]

    def enable(self, webhook_id: str, tenant: str, *, origin: Origin = HERE) -> Webhook:
        """Let a disabled webhook go on where it stopped, with what is still kept of the events since.

        What was to be sent again later is due at once; one that is not disabled stays as it is. NotFoundError when the
        tenant has none of this id.
        """
        with self._database.write(through=True) as session:
            row = _find(session, webhook_id, tenant)
            if row.disabled_at is not None:
                row.disabled_at, row.failures = None, 0
                waiting = update(DeliveryRow).where(DeliveryRow.webhook_id == row.id, *_OPEN)
                session.execute(waiting.values(next_at=self._database.now()))
                self._trail.note(session, Action.ENABLE_WEBHOOK, tenant, row.id, "enabled", origin)
            return _webhook(row)

    def get(self, webhook_id: str, tenant: str) -> Webhook:
        """One webhook; NotFoundError when the tenant has none of this id."""
        with self._database.read() as session:
            return _webhook(_find(session, webhook_id, tenant, lock=False))

    def remove(self, webhook_id: str, tenant: str, *, expected: Webhook | None = None, origin: Origin = HERE) -> None:
        """Forget a webhook and its deliveries; NotFoundError when the tenant has none of this id.

        PreconditionError when it differs from the one that is expected in anything but its failures.
        """
        with self._database.write() as session:
            row = _find(session, webhook_id, tenant)
            if expected is not None and replace(_webhook(row), failures=expected.failures) != expected:
                raise PreconditionError(f"Webhook {webhook_id!r} was changed; read it again.")
            session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == row.id))
            session.delete(row)
            self._trail.note(session, Action.REMOVE_WEBHOOK, tenant, row.id, "removed", origin)

    def spread(self) -> int:
        """Make deliveries of events that webhooks were not told of yet; returns how many."""
        with self._database.read() as session:
            active = session.scalars(select(WebhookRow).where(WebhookRow.disabled_at.is_(None))).all()
        return sum(self._spread(row) for row in active)

    def _spread(self, row: WebhookRow) -> int:
        events = self._store.events(tenant=row.tenant, after=row.position, limit=_PAGE)
        if not events:
            return 0
        wanted = [{"webhook_id": row.id, "event_id": e.id, "attempts": 0} for e in events if e.kind in row.kinds]
        # Of several senders that read the same events one moves the position, and makes the deliveries.
        here = (WebhookRow.id == row.id, WebhookRow.position == row.position)
        move = update(WebhookRow).where(*here).values(position=events[-1].id).returning(WebhookRow.id)
        with self._database.write() as session:
            if session.scalar(move.execution_options(synchronize_session=False)) is None:
                return 0
            if wanted:
                # Where the event at its position is not kept any more, some are read that have their deliveries.
                new = (postgresql.insert if self._database.on_postgresql else sqlite.insert)(DeliveryRow)
                session.execute(new.values(next_at=self._database.now()).on_conflict_do_nothing(), wanted)
        return len(wanted)

    def claim(self, most: int, held: Mapping[str, int] | None = None, most_held: int | None = None) -> list[Delivery]:
        """Deliveries whose time has come, for the caller to send; :meth:`settle` each.

        Of each webhook it is the oldest one, and none while another is on its way, whoever sends that. Tenants take turns:
        next is the one with the fewest deliveries on their way, of its webhooks the one that waits longest.

        Args:
            most: So many at most.
            held: How many the caller is sending already, by tenant.
            most_held: So many of one tenant at most, those included.
        """
        with self._database.read() as session:
            waiting = [(row.id, row.tenant) for row in session.execute(self._waiting())]
        chosen = _in_turn(waiting, most, held or {}, most_held)
        if not chosen:
            return []
        mine = select(WebhookRow).where(WebhookRow.id.in_(chosen), *self._is_free())
        with self._database.write() as session:
            taken = [self._take(session, row) for row in session.scalars(mine.with_for_update(skip_locked=True)).all()]
        return [delivery for delivery in taken if delivery is not None]

    def _waiting(self) -> Executable:
        """Webhooks with something to send now: id and tenant; first the one that was served longest ago."""
        due = exists().where(DeliveryRow.webhook_id == WebhookRow.id, *self._is_due())
        served = WebhookRow.free_at
        return select(WebhookRow.id, WebhookRow.tenant).where(*self._is_free(), due).order_by(served.is_not(None), served)

    def _is_free(self) -> tuple[ColumnElement[bool], ...]:
        free = or_(WebhookRow.free_at.is_(None), WebhookRow.free_at <= self._database.now())
        return WebhookRow.disabled_at.is_(None), free

    def _is_due(self) -> tuple[ColumnElement[bool], ...]:
        return *_OPEN, DeliveryRow.next_at <= self._database.now()

    def _take(self, session: Session, webhook: WebhookRow) -> Delivery | None:
        """The webhook's oldest delivery that is due, its lease taken; None when another sender was faster."""
        due = (DeliveryRow.webhook_id == webhook.id, *self._is_due())
        query = select(DeliveryRow, EventRow).join(EventRow, EventRow.id == DeliveryRow.event_id).where(*due)
        found = session.execute(query.order_by(DeliveryRow.id).limit(1)).one_or_none()
        if found is None:
            return None
        row, event = found
        row.attempts += 1
        row.next_at = webhook.free_at = self._database.now(CLAIM_SECONDS)
        return Delivery(row.id, webhook.id, webhook.url, webhook.secret, rows.event(event), row.attempts)

    def settle(self, delivery: Delivery, status: int | None, error: str | None) -> None:
        """Record what became of a delivery: no ``error``: it arrived; else it is sent again later, or given up."""
        with self._database.write() as session:
            row = session.get(DeliveryRow, delivery.id)
            webhook = session.get(WebhookRow, delivery.webhook_id, with_for_update=True)
            if row is None or webhook is None or row.attempts != delivery.attempt:
                return  # it was deleted, or taken up by another sender
            webhook.free_at = self._database.now()
            row.status, row.last_error = status, None if error is None else rules.text(error)
            if error is None:
                row.delivered_at, row.next_at, webhook.failures = self._database.now(), None, 0
            else:
                self._failed(session, row, webhook)

    def _failed(self, session: Session, row: DeliveryRow, webhook: WebhookRow) -> None:
        pause = PAUSES[row.attempts - 1] * (0.9 + secrets.randbelow(200) / 1000) if row.attempts <= len(PAUSES) else None
        row.next_at = None if pause is None else self._database.now(pause)
        webhook.failures += 1
        if webhook.failures >= PATIENCE:
            webhook.disabled_at = self._database.now()


def _find(session: Session, webhook_id: str, tenant: str, *, lock: bool = True) -> WebhookRow:
    """The webhook's row; NotFoundError when there is none, or it is another tenant's."""
    row = session.get(WebhookRow, rules.text(webhook_id), with_for_update=lock)
    if row is None or row.tenant != tenant:
        raise NotFoundError(f"There is no webhook {webhook_id[:80]!r}.")
    return row


def _in_turn(
    waiting: Sequence[tuple[str, str]], most: int, held: Mapping[str, int], most_held: int | None
) -> Collection[str]:
    """Which of the webhooks (id and tenant, in order of their claims) are next."""
    chosen: list[str] = []
    counts, left = Counter(held), list(waiting)
    while left and len(chosen) < most:
        webhook, tenant = min(left, key=lambda one: counts[one[1]])  # the first of those with the fewest
        if most_held is not None and counts[tenant] >= most_held:
            break
        left.remove((webhook, tenant))
        chosen.append(webhook)
        counts[tenant] += 1
    return chosen


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(row.id, row.tenant, row.url, tuple(row.kinds), row.created_at, row.disabled_at, row.failures)


KINDS = tuple(kind.value for kind in EventKind)
"""What a webhook may ask for."""
