"""A store in a database: SQLite for one machine, PostgreSQL for several.

Every method is one transaction. A driver's write begins by updating its search's row ``WHERE attempt = …``: that refuses
drivers whose time is over, keeps the next claim out until the commit, and takes the next place in the event sequence.
"""

from automl_prune.storage import migrate
from automl_prune.storage.sql.driving import Driving
from automl_prune.storage.sql.orders import Orders
from automl_prune.storage.sql.queries import Queries
from automl_prune.storage.sql.trials import Trials

__all__ = ["SqlStore"]


class SqlStore(Orders, Queries, Driving, Trials):
    """Searches in a database with the newest schema.

    Args:
        url: ``sqlite:///FILE`` (on a local disk) or ``postgresql://USER@HOST/NAME``.

    Raises:
        UserError: The database's schema is not the one this program needs; the message says what to do.
    """

    @classmethod
    def open(cls, url: str, *, upgrade: bool = False) -> "SqlStore":
        """The store at ``url``, its schema brought up to date first when ``upgrade``."""
        if upgrade:
            migrate.upgrade(url)
        return cls(url)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
