"""Searches with their labels, snapshots, trials and artifacts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _searches()
    _trials()
    op.create_table(
        "labels",
        _search_id("labels"),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "key", name="pk_labels"),
    )
    op.create_index("ix_labels_key_value", "labels", ["key", "value", "search_id"])
    op.create_table(
        "snapshots",
        _search_id("snapshots"),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", name="pk_snapshots"),
    )
    op.create_table(
        "artifacts",
        _search_id("artifacts"),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "name", name="pk_artifacts"),
    )


def _searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("strategy", sa.String(), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index("ix_searches_unfinished", "searches", ["id"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("ix_searches_state", "searches", ["state", "id"])
    op.create_index("ix_searches_strategy", "searches", ["strategy", "id"])


def _trials() -> None:
    op.create_table(
        "trials",
        _search_id("trials"),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("widths", sa.JSON(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("repaired", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("asked_seq", sa.Integer(), nullable=False),
        sa.Column("told_seq", sa.Integer(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_trials"),
    )
    op.create_index("ix_trials_arm_state", "trials", ["search_id", "arm", "state", "number"])


def _search_id(table: str) -> sa.Column[str]:
    reference = sa.ForeignKey("searches.id", name=f"fk_{table}_search_id_searches")
    return sa.Column("search_id", sa.String(), reference, nullable=False)
