"""Which key ordered a search, who changed what, and whose turn it is to send to a webhook."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep it from now on: no limit holds for searches that are there already, and every webhook is free."""
    op.add_column("searches", sa.Column("key_id", sa.String(), nullable=True))
    op.add_column("webhooks", sa.Column("free_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_webhook_deliveries_due", "webhook_deliveries")
    is_open = sa.text("delivered_at IS NULL AND next_at IS NOT NULL")
    op.create_index(
        "ix_webhook_deliveries_open",
        "webhook_deliveries",
        ["webhook_id", "id"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("ip", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_object_id", "audit", ["object_id", "id"])
    op.create_index("ix_audit_tenant", "audit", ["tenant", "id"])
