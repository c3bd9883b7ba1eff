"""Tenants, priorities, pauses, attempts, the outbox, idempotency keys, API keys and webhooks."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.DateTime(timezone=True)

searches = sa.table(
    "searches",
    sa.column("id", sa.String),
    sa.column("spec", sa.JSON),
    sa.column("info", sa.JSON),
    sa.column("losses", sa.Integer),
    sa.column("best", sa.JSON),
)
trials = sa.table(
    "trials",
    sa.column("search_id", sa.String),
    sa.column("number", sa.Integer),
    sa.column("arm", sa.String),
    sa.column("state", sa.String),
    sa.column("outcome", sa.JSON),
)


def upgrade() -> None:
    """Widen searches and create the new tables; what can be known of searches that are there is filled in."""
    _searches()
    _attempts()
    _events()
    _idempotency_keys()
    _api_keys()
    _webhooks()
    _fill_in()


def _searches() -> None:
    for column in (
        sa.Column("tenant", sa.String(), server_default="default", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("best", sa.JSON(), nullable=True),
    ):
        op.add_column("searches", column)
    unfinished = sa.text("finished_at IS NULL")
    op.drop_index("ix_searches_unfinished", "searches")
    op.create_index(
        "ix_searches_unfinished",
        "searches",
        [sa.text("priority DESC"), "id"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_index("ix_searches_tenant", "searches", ["tenant", "id"])
    op.create_index("ix_searches_tenant_state", "searches", ["tenant", "state", "id"])


def _attempts() -> None:
    op.create_table(
        "search_attempts",
        _search_id("search_attempts"),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("ended_at", Time, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("search_id", "attempt", name="pk_search_attempts"),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", Serial, nullable=False),
        _search_id("events"),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_search_id", "events", ["search_id", "id"])
    op.create_index("ix_events_tenant", "events", ["tenant", "txid", "id"])
    op.create_index("ix_events_txid", "events", ["txid", "id"])


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        _search_id("idempotency_keys", deferrable=True, initially="DEFERRED"),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("expires_at", Time, nullable=True),
        sa.Column("revoked_at", Time, nullable=True),
        sa.Column("last_used_at", Time, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_digest", "api_keys", ["digest"], unique=True)
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant", "id"])


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("disabled_at", Time, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_tenant", "webhooks", ["tenant", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", Serial, nullable=False),
        sa.Column("webhook_id", sa.String(), _reference("webhook_deliveries", "webhook_id", "webhooks"), nullable=False),
        sa.Column("event_id", Serial, _reference("webhook_deliveries", "event_id", "events"), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", Time, nullable=True),
        sa.Column("delivered_at", Time, nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sqlite_autoincrement=True,
    )
    waiting = sa.text("delivered_at IS NULL")
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_at", "id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index("ix_webhook_deliveries_event", "webhook_deliveries", ["webhook_id", "event_id"], unique=True)


def _reference(table: str, column: str, target: str, **options: Any) -> sa.ForeignKey:
    return sa.ForeignKey(f"{target}.id", name=f"fk_{table}_{column}_{target}", **options)


def _search_id(table: str, **options: Any) -> sa.Column[str]:
    return sa.Column("search_id", sa.String(), _reference(table, "search_id", "searches", **options), nullable=False)


def _fill_in() -> None:
    """Lost drivers were counted in the info, and the best trials were found by reading all of them."""
    connection = op.get_bind()
    for search in connection.execute(sa.select(searches.c.id, searches.c.spec, searches.c.info)).all():
        found = {"losses": int(search.info.get("losses", 0)), "best": _best(connection, search)}
        connection.execute(sa.update(searches).where(searches.c.id == search.id).values(**found))


def _best(connection: sa.Connection, search: Any) -> dict[str, Any]:
    metric = str(search.spec.get("objective", "top1"))
    best: dict[str, Any] = {}
    for trial in _complete(connection, search.id):
        metrics = trial.outcome["metrics"]
        if metric not in metrics or (trial.arm != "base" and _over_budget(metrics, search.info)):
            continue
        value, old = float(metrics[metric]), best.get(trial.arm)
        if old is None or (value < old["value"] if metric == "loss" else value > old["value"]):
            best[trial.arm] = {"number": trial.number, "value": value}
    return best


def _complete(connection: sa.Connection, search_id: str) -> Iterator[Any]:
    mine = sa.select(trials).where(trials.c.search_id == search_id, trials.c.state == "complete")
    yield from connection.execute(mine.order_by(trials.c.number))


def _over_budget(metrics: dict[str, float], info: dict[str, Any]) -> bool:
    def outside(value: float, least: float | None, most: float | None) -> bool:
        return value < (least or 0) or (most is not None and value > most)

    limits = info.get("budgets", ())
    return any(b["metric"] in metrics and outside(metrics[b["metric"]], b.get("min"), b.get("max")) for b in limits)
