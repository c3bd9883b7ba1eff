"""Which key ordered a search, and whose turn it is to send to a webhook."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep both from now on: no key's limit holds for what is there already, and every webhook is free."""
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
