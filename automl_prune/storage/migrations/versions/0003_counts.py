"""Counts of trials that ended, and how far the outbox was pruned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count what is there once, and say that every event is kept."""
    op.add_column("searches", sa.Column("events_pruned", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "trial_counts",
        sa.Column(
            "search_id", sa.String(), sa.ForeignKey("searches.id", name="fk_trial_counts_search_id_searches"), nullable=False
        ),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "arm", "state", name="pk_trial_counts"),
    )
    op.execute(
        "INSERT INTO trial_counts (search_id, arm, state, number) SELECT search_id, arm, state, count(*) FROM trials "
        "WHERE ended_at IS NOT NULL GROUP BY search_id, arm, state"
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_trials_open", "trials", ["search_id", "arm", "state"], sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_index("ix_webhook_deliveries_event_id", "webhook_deliveries", ["event_id"])
