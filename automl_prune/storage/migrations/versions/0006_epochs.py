"""Which agent speaks for a device."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nobody does until an agent registers: those of before do not say which one they are."""
    op.add_column("devices", sa.Column("epoch", sa.String(), nullable=True))
