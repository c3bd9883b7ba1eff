"""An open database: transactions on it, and its clock. What is kept in it besides searches stands on this too."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Engine, func, literal, select
from sqlalchemy.orm import Session, sessionmaker

from automl_prune.storage import migrate
from automl_prune.storage.engine import connect
from automl_prune.storage.tables import UtcDateTime


class Database:
    """A database with the newest schema.

    Args:
        url: ``sqlite:///FILE`` (on a local disk) or ``postgresql://USER@HOST/NAME``.

    Raises:
        UserError: The database's schema is not the one this program needs; the message says what to do.
    """

    def __init__(self, url: str) -> None:
        self.engine: Engine = connect(url)
        try:
            migrate.require_head(self.engine)
        except BaseException:
            self.engine.dispose()
            raise
        self.on_postgresql = self.engine.dialect.name == "postgresql"
        self._read = sessionmaker(self.engine)
        self._write = sessionmaker(self.engine.execution_options(begin="IMMEDIATE"))
        self._write_through = sessionmaker(self.engine.execution_options(begin="IMMEDIATE", synchronous="FULL"))

    def read(self) -> Session:
        """A transaction that only reads: ``with database.read() as session``."""
        return self._read()

    def write(self, *, through: bool = False) -> AbstractContextManager[Session]:
        """A transaction that commits when its block ends; ``through``: its commit survives a loss of power on SQLite too."""
        return (self._write_through if through else self._write).begin()

    def now(self, plus_seconds: float = 0) -> ColumnElement[datetime]:
        """The database's clock: of its server, or of the one machine that SQLite lives on."""
        later = timedelta(seconds=plus_seconds)
        if self.on_postgresql:
            return func.now() + later
        return literal(datetime.now(UTC) + later, UtcDateTime())

    def one_by_one(self, session: Session, what: str, tenant: str) -> None:
        """Let other transactions of the tenant that would add such a thing wait for this one, so that a limit counts it.

        SQLite writes one by one anyway. Ask before counting.
        """
        if self.on_postgresql:
            session.execute(select(func.pg_advisory_xact_lock(func.hashtext(what), func.hashtext(tenant))))

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
