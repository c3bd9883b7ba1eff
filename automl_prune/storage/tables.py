"""The tables, as the newest migration leaves them.

searches ──┬── labels      one row per label, so that a filter is an index look-up
           ├── snapshots   the strategies' states: large, and so kept off the row that every event updates
           ├── trials
           └── artifacts
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
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
        str: String(),
    }


class SearchRow(Base):
    """A search; ``events`` counts what was asked and told, ``finished_at`` is set exactly when the state is terminal."""

    __tablename__ = "searches"
    __table_args__ = (
        Index(
            "ix_searches_unfinished",
            "id",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index("ix_searches_state", "state", "id"),
        Index("ix_searches_strategy", "strategy", "id"),
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
    result: Mapped[dict[str, Any] | None]

    labels: Mapped[list["LabelRow"]] = relationship(lazy="selectin")


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
    __table_args__ = (Index("ix_trials_arm_state", "search_id", "arm", "state", "number"),)

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


class ArtifactRow(Base):
    """A file of a search."""

    __tablename__ = "artifacts"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
