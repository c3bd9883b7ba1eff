"""Commands about the database of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from automl_prune.errors import UserError
from services.cli import text
from services.cli.options import AsJson, Home
from services.cli.text import echo_json

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade(home: Home = None, as_json: AsJson = False) -> None:
    """Bring the database to the newest schema; creates it when there is none."""
    from automl_prune.storage import migrate
    from services.database import database_url
    from services.home import make_home
    from services.settings import load_settings

    settings = load_settings(home=home)
    make_home(settings.home)
    url = database_url(settings)
    with answering():
        migrate.upgrade(url)
    _print_revision(url, as_json)


@app.command()
def current(home: Home = None, as_json: AsJson = False) -> None:
    """Show the database's schema revision and the newest one."""
    from services.database import database_url
    from services.settings import load_settings

    _print_revision(database_url(load_settings(home=home)), as_json)


def _print_revision(url: str, as_json: bool) -> None:
    from automl_prune.storage import migrate

    with answering():
        found = {"revision": migrate.current(url) if _exists(url) else None, "newest": migrate.revisions()[0]}
    if as_json:
        echo_json(found)
    else:
        text.console().print(text.facts([("revision", found["revision"] or "none"), ("newest", found["newest"])]))


def _exists(url: str) -> bool:
    """False for a SQLite file that is not there: opening it, just to look, would create it."""
    from automl_prune.storage.engine import parse

    parsed = parse(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


@contextmanager
def answering() -> Iterator[None]:
    """Raise UserError, instead of what SQLAlchemy raises, when the database cannot be opened."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise UserError(f"The database cannot be opened: {' '.join(str(error.orig).split())}.") from None
    except ModuleNotFoundError as error:
        raise UserError(f"This database needs the Python package {error.name!r}; install it.") from None
