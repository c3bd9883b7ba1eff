"""How a database is opened: one engine per store, and what SQLite needs to serve several processes."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError

from automl_prune.errors import UserError

BUSY_SECONDS = 10.0
"""How long a SQLite writer waits for another one."""

IDLE_SECONDS = 60
"""How long a transaction on PostgreSQL may do nothing before the server ends it."""
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""When a PostgreSQL server that says nothing counts as gone: libpq's parameters, which a URL may set otherwise."""

_DISCREET: dict[str, Any] = {"hide_parameters": True}
"""What errors and logs quote of a statement is not what was sent with it: that may be a secret."""


def connect(url: str, *, foreign_keys: bool = True) -> Engine:
    """An engine for ``sqlite:///FILE`` or ``postgresql://…`` (always by psycopg 3); UserError for anything else.

    On SQLite a transaction is deferred unless its engine carries ``execution_options(begin="IMMEDIATE")``; with
    ``synchronous="FULL"`` its commit also survives a loss of power. A file that is made here is its owner's alone.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "postgresql":
        return _postgres(parsed)
    if not Path(str(parsed.database)).parent.is_dir():
        raise UserError(f"The folder of the database {parsed.database!r} does not exist; make it first.")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS}, **_DISCREET)
    _prepare_sqlite(engine, foreign_keys)
    return engine


def parse(url: str) -> URL:
    """The URL with our drivers; raises UserError, without repeating what came, when it is none of a database that serves."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # what came is not repeated: it may hold a password
        raise UserError("The database URL cannot be read; write sqlite:///FILE or postgresql://USER@HOST/NAME.") from None
    if parsed.drivername.split("+")[0] in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise UserError(f"Databases are sqlite or postgresql, not {parsed.drivername!r}.")
    if not parsed.database or parsed.database == ":memory:":
        raise UserError("A SQLite database needs a file (sqlite:///FILE); for one in memory there is MemoryStore.")
    return parsed


def file_of(url: str) -> Path | None:
    """The file of a SQLite database; None for PostgreSQL."""
    parsed = parse(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def patience(url: URL) -> dict[str, int]:
    """What every connection to PostgreSQL is opened with, where its URL says nothing else."""
    return {name: value for name, value in PATIENCE.items() if name not in url.query}


def _postgres(url: URL) -> Engine:
    try:
        engine = create_engine(
            url, connect_args=patience(url), pool_pre_ping=True, pool_timeout=BUSY_SECONDS, max_overflow=35, **_DISCREET
        )
    except ModuleNotFoundError:
        raise UserError("PostgreSQL is reached by psycopg 3, which is missing: pip install 'psycopg[binary]'.") from None

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # a process that is stopped, or cut off, in the middle of a transaction must not keep its locks
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
        connection.commit()

    event.listen(engine, "handle_error", _leave_out_the_row)
    return engine


def _leave_out_the_row(context: ExceptionContext) -> None:
    """Keep the first line of what PostgreSQL says of a row it refuses: the next ones quote the row."""
    refused = context.sqlalchemy_exception
    if isinstance(refused, IntegrityError | DataError):
        told = str(context.original_exception)
        for error in (refused, context.original_exception):
            error.args = tuple(str(part).replace(told, told.partition("\n")[0]) for part in error.args)


def _prepare_sqlite(engine: Engine, foreign_keys: bool) -> None:
    @event.listens_for(engine, "do_connect")
    def before_connect(*_: Any) -> None:
        # SQLite gives the files beside it the same mode; where none can be made here, SQLite says why
        with contextlib.suppress(OSError):
            os.close(os.open(str(engine.url.database), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: on_begin decides how
        _use_write_ahead_log(connection)
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(f"PRAGMA synchronous={options.get('synchronous', 'NORMAL')}")
        connection.exec_driver_sql(f"BEGIN {options.get('begin', 'DEFERRED')}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own waiting leaves this out: two processes that open a new file at once may refuse each other
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
