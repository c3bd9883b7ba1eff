"""What alembic runs around every command.

automl_prune.storage.migrate hands its connection over. A developer writes a new revision with
``alembic -x url=sqlite:///FILE revision --autogenerate -m "What changes"``.
"""

from alembic import context
from sqlalchemy import Connection

from automl_prune.storage.engine import connect
from automl_prune.storage.tables import Base


def run(connection: Connection) -> None:
    """Run the command's migrations in the connection's transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    engine = connect(context.get_x_argument(as_dictionary=True)["url"], foreign_keys=False)
    with engine.execution_options(begin="IMMEDIATE").begin() as connection:
        run(connection)
    engine.dispose()
