"""The API key that ordered a search, whose limits it counts against."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep it from now on; who ordered what is there already was not written down, and no key's limit holds for it."""
    op.add_column("searches", sa.Column("key_id", sa.String(), nullable=True))
