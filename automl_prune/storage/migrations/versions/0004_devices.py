"""Devices elsewhere, and what they are asked to time."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "devices",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.Column("registered_at", Time, nullable=False),
        sa.Column("last_seen_at", Time, nullable=False),
        sa.Column("measured", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("noises", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_devices"),
    )
    op.create_table(
        "measurement_batches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=True),
        sa.Column("conditions", sa.JSON(), nullable=False),
        sa.Column("wanted_until", Time, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.name"], name="fk_measurement_batches_device_devices"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_measurement_batches"),
    )
    op.create_index("ix_measurement_batches_device", "measurement_batches", ["tenant", "device", "wanted_until"])
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column(
            "batch_id",
            sa.String(),
            sa.ForeignKey("measurement_batches.id", name="fk_measurements_batch_id_measurement_batches"),
            nullable=False,
        ),
        sa.Column("work", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", Time, nullable=True),
        sa.Column("timing", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
    )
    op.create_index("ix_measurements_batch_id", "measurements", ["batch_id", "id"])
