import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from automl_prune.errors import SpecError
from services.database import database_url, warn_if_open
from services.ray_auth import variables
from services.settings import Settings, environment, load_settings
from services.wiring import open_store

URL = "postgresql://me@db:5432/searches"


def settings(home: Path, **changes: object) -> Settings:
    return load_settings(home=home, database_url=URL, **changes)


def test_a_password_comes_from_its_file_and_is_written_as_urls_are(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/wörd:1\n", encoding="utf-8")
    found = settings(tmp_path, database_password_file=file)
    assert database_url(found) == "postgresql://me:p%40ss%2Fw%C3%B6rd%3A1@db:5432/searches"
    assert "ss/w" not in str(environment(found)) + repr(found), "child processes are told the file's name"
    file.write_text("new")
    assert database_url(found) == "postgresql://me:new@db:5432/searches"


def test_a_file_with_the_whole_url_counts_instead_of_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://other:secret@host/name")
    assert database_url(settings(tmp_path, database_url_file=file)) == "postgresql://other:secret@host/name"
    assert database_url(settings(tmp_path)) == URL


@pytest.mark.parametrize("content", [None, b"", b"\n", b"one\ntwo\n", b"\xff\xfe", b"x" * 5000])
def test_a_file_without_a_secret_is_refused_by_the_name_of_its_setting(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError, match="AUTOML_PRUNE_DATABASE_PASSWORD_FILE"):
        database_url(settings(tmp_path, database_password_file=file))


def test_no_password_is_added_to_what_is_no_url_and_nothing_of_it_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("not a url but secret")
    (tmp_path / "password").write_text("pw")
    found = settings(tmp_path, database_url_file=tmp_path / "url", database_password_file=tmp_path / "password")
    with pytest.raises(SpecError, match="AUTOML_PRUNE_DATABASE_URL") as caught:
        database_url(found)
    assert "but secret" not in str(caught.value)


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("usual_umask")
def test_a_home_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    found = load_settings(home=tmp_path / "below" / "home")
    open_store(found).close()
    variables(load_settings(home=tmp_path / "of ray").home)
    assert (mode(found.home), mode(tmp_path / "of ray")) == (0o700, 0o700)


@pytest.mark.usefixtures("usual_umask")
def test_a_database_is_its_owners_alone_in_an_open_home(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The folder stays as it is; the log says so of a file that others can read."""
    found = load_settings(home=tmp_path / "home")
    found.home.mkdir(mode=0o755)
    store = open_store(found)
    store.add_search({}, name=None, labels={})
    files = {file.name: mode(file) for file in found.home.iterdir()}
    store.close()
    assert files == dict.fromkeys((f"automl-prune.sqlite3{end}" for end in ("", "-wal", "-shm")), 0o600)
    assert mode(found.home) == 0o755
    warn_if_open(found)
    assert caplog.messages == []
    (found.home / "automl-prune.sqlite3").chmod(0o644)
    warn_if_open(found)
    assert [message for message in caplog.messages if "chmod 600" in message]
    found.home.chmod(0o700)
    caplog.clear()
    warn_if_open(found)
    warn_if_open(settings(tmp_path))
    assert caplog.messages == [], "nobody can enter"
