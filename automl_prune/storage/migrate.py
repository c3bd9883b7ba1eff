"""Bringing a database to the newest schema, and telling which one it has."""

import threading
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, select

from automl_prune.errors import UserError
from automl_prune.storage.engine import connect

_ADVISORY_LOCK = 0x6175746F6D6C70  # any constant does, as long as it is ours: "automlp"
_one_at_a_time = threading.Lock()  # alembic keeps its context in module globals


def script_config() -> Config:
    """Alembic's configuration, with the scripts taken from the installed package."""
    config = Config()
    config.set_main_option("script_location", "automl_prune.storage:migrations")
    config.set_main_option("path_separator", "os")
    return config


@cache
def revisions() -> tuple[str, ...]:
    """The revisions this program knows, newest first."""
    scripts = ScriptDirectory.from_config(script_config())
    return tuple(script.revision for script in scripts.walk_revisions())


def upgrade(url: str) -> None:
    """Bring the database to the newest schema; several processes may try at once, and one of them does it.

    Raises:
        UserError: The database was upgraded by a newer version of this program.
    """
    # SQLite alters tables by copying and dropping them, which foreign keys would forbid
    engine = connect(url, foreign_keys=False)
    try:
        with _one_at_a_time, engine.execution_options(begin="IMMEDIATE").begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            _refuse_newer(MigrationContext.configure(connection).get_current_revision())
            config = script_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The database's revision; None when it is empty."""
    engine = connect(url)
    try:
        return _revision(engine)
    finally:
        engine.dispose()


def require_head(engine: Engine) -> None:
    """Raise UserError unless the database has the newest schema; it says what to do."""
    revision = _revision(engine)
    _refuse_newer(revision)
    if revision != revisions()[0]:
        raise UserError(
            f"The database {engine.url.render_as_string()} is at revision {revision}, "
            f"this program needs {revisions()[0]}; "
            "run 'automl-prune db upgrade'."
        )


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision not in revisions():
        raise UserError(
            f"The database is at revision {revision}, which this program does not know; it was upgraded by a newer "
            "version: install that version."
        )
