"""The tables, as the newest migration leaves them.

searches ──┬── labels           one row per label, so that a filter is an index look-up
           ├── snapshots        the strategies' states: large, and so kept off the row that every event updates
           ├── search_attempts  one row per claim
           ├── trials
           ├── trial_counts     how many trials ended how, so that nobody counts a hundred thousand of them
           ├── artifacts
           ├── events           the outbox
           └── idempotency_keys
api_keys
webhooks ───── webhook_deliveries
devices ────── measurement_batches ── measurements
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; SQLite keeps no time zone, so that UTC is written and put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraint names are fixed, so that later migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        }
    )
    # json and not jsonb: jsonb reorders keys and rewrites numbers, and a strategy must get back what it saved
    type_annotation_map = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[int]: JSON(),
        list[float]: JSON(),
        list[str]: JSON(),
        str: String(),
    }


Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what is called INTEGER


class SearchRow(Base):
    """A search; ``events`` counts what was asked and told, ``finished_at`` is set exactly when the state is terminal.

    Of its rows in the outbox, those up to ``events_pruned`` are not kept any more. ``result`` is large, and read only by
    those who name it.
    """

    __tablename__ = "searches"
    __table_args__ = (
        Index("ix_searches_state", "state", "id"),
        Index("ix_searches_strategy", "strategy", "id"),
        Index("ix_searches_tenant", "tenant", "id"),
        Index("ix_searches_tenant_state", "tenant", "state", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    strategy: Mapped[str | None]
    spec: Mapped[dict[str, Any]]
    state: Mapped[str]
    state_reason: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool]
    events: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    info: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    has_result: Mapped[bool] = column_property(result.is_not(None))
    tenant: Mapped[str] = mapped_column(server_default="default")
    priority: Mapped[int] = mapped_column(server_default="0")
    pause_requested: Mapped[bool] = mapped_column(server_default=false())
    version: Mapped[int] = mapped_column(server_default="1")
    losses: Mapped[int] = mapped_column(server_default="0")
    owner: Mapped[str | None]
    host: Mapped[str | None]
    best: Mapped[dict[str, Any] | None]
    events_pruned: Mapped[int] = mapped_column(BigInteger, server_default="0")
    key_id: Mapped[str | None]

    labels: Mapped[list["LabelRow"]] = relationship(lazy="selectin")


Index(  # the order of claims
    "ix_searches_unfinished",
    SearchRow.priority.desc(),
    SearchRow.id,
    sqlite_where=text("finished_at IS NULL"),
    postgresql_where=text("finished_at IS NULL"),
)


class LabelRow(Base):
    """One label of a search."""

    __tablename__ = "labels"
    __table_args__ = (Index("ix_labels_key_value", "key", "value", "search_id"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class SnapshotRow(Base):
    """The last snapshot of a search."""

    __tablename__ = "snapshots"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    body: Mapped[dict[str, Any]]


class TrialRow(Base):
    """A trial; ``outcome`` is set exactly when the state is terminal."""

    __tablename__ = "trials"
    __table_args__ = (
        Index("ix_trials_arm_state", "search_id", "arm", "state", "number"),
        Index(
            "ix_trials_open",
            "search_id",
            "arm",
            "state",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    arm: Mapped[str]
    state: Mapped[str]
    attempt: Mapped[int]
    widths: Mapped[list[int]]
    origin: Mapped[dict[str, Any]]
    parent: Mapped[int | None]
    repaired: Mapped[bool]
    outcome: Mapped[dict[str, Any] | None]
    asked_seq: Mapped[int]
    told_seq: Mapped[int | None]
    asked_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class TrialCountRow(Base):
    """How many trials of an arm ended in a state; those that have not ended are few, and counted when somebody asks."""

    __tablename__ = "trial_counts"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    arm: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]


class ArtifactRow(Base):
    """A file of a search."""

    __tablename__ = "artifacts"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]


class AttemptRow(Base):
    """One claim of a search."""

    __tablename__ = "search_attempts"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    lost: Mapped[bool]
    worker: Mapped[str | None]
    host: Mapped[str | None]
    pid: Mapped[int | None]


class EventRow(Base):
    """Something that happened, for those who watch; on PostgreSQL ``txid`` is the transaction that wrote it.

    Numbers are handed out before a transaction commits, so that a watcher of many searches could pass over one that
    commits late; it reads in order of (txid, id), and only what no running transaction can still add to.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_search_id", "search_id", "id"),
        Index("ix_events_tenant", "tenant", "txid", "id"),
        Index("ix_events_txid", "txid", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"))
    tenant: Mapped[str]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    txid: Mapped[int] = mapped_column(BigInteger)


class IdempotencyRow(Base):
    """A client's key and the search it made; the key is written first, and so refers to a search that is yet to come."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", deferrable=True, initially="DEFERRED"))
    created_at: Mapped[datetime]


class ApiKeyRow(Base):
    """A key that opens the service to a tenant; only its digest is kept, and ``hint`` to recognise it by."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_digest", "digest", unique=True), Index("ix_api_keys_tenant", "tenant", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    digest: Mapped[str]
    hint: Mapped[str]
    limits: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Base):
    """A change that was made, and who made it; never changed nor deleted."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_object_id", "object_id", "id"), Index("ix_audit_tenant", "tenant", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    action: Mapped[str]
    object_id: Mapped[str]
    result: Mapped[str]
    at: Mapped[datetime]
    key_id: Mapped[str | None]
    ip: Mapped[str | None]
    request_id: Mapped[str | None]


class WebhookRow(Base):
    """Where a tenant wants its events sent, signed with ``secret``; those up to ``position`` have their deliveries.

    One delivery at a time: while it is on its way ``free_at`` is the end of its lease, afterwards when it was settled.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_tenant", "tenant", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    url: Mapped[str]
    secret: Mapped[str]
    kinds: Mapped[list[str]]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    failures: Mapped[int]
    position: Mapped[int] = mapped_column(BigInteger)
    free_at: Mapped[datetime | None]


class DeliveryRow(Base):
    """One event on its way to one webhook; without ``next_at`` it is not sent again."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(
            "ix_webhook_deliveries_open",
            "webhook_id",
            "id",
            sqlite_where=text("delivered_at IS NULL AND next_at IS NOT NULL"),
            postgresql_where=text("delivered_at IS NULL AND next_at IS NOT NULL"),
        ),
        Index("ix_webhook_deliveries_event", "webhook_id", "event_id", unique=True),
        Index("ix_webhook_deliveries_event_id", "event_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    attempts: Mapped[int]
    next_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(Text)


class DeviceRow(Base):
    """A device that an agent speaks for, the one with ``epoch``; ``noises`` are relative errors of its last measurements."""

    __tablename__ = "devices"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[dict[str, Any]]
    registered_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    measured: Mapped[int]
    failed: Mapped[int]
    noises: Mapped[list[float]]
    epoch: Mapped[str | None]


class BatchRow(Base):
    """Measurements that were ordered together; after ``wanted_until`` nobody waits for them any more."""

    __tablename__ = "measurement_batches"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.name"], name="fk_measurement_batches_device_devices"
        ),
        Index("ix_measurement_batches_device", "tenant", "device", "wanted_until"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    device: Mapped[str]
    search_id: Mapped[str | None]
    conditions: Mapped[dict[str, Any]]
    wanted_until: Mapped[datetime]


class MeasurementRow(Base):
    """One piece of work; ``timing`` is set exactly when it is done."""

    __tablename__ = "measurements"
    __table_args__ = (Index("ix_measurements_batch_id", "batch_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    batch_id: Mapped[str] = mapped_column(ForeignKey("measurement_batches.id"))
    work: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempt: Mapped[int]
    lease_expires_at: Mapped[datetime | None]
    timing: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
