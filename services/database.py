"""Where the database is, put together from settings and from files that hold its secrets."""

import logging
import stat
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from automl_prune.errors import FieldError, SpecError
from automl_prune.storage.engine import file_of
from services.settings import PREFIX, Settings

log = logging.getLogger(__name__)

_LONGEST = 4096


def database_url(settings: Settings) -> str:
    """The database's URL with its password, for the store alone.

    Files are read at every call, so that a changed password counts from the next start on; child processes are told their
    names, and never what they hold.

    Raises:
        SpecError: A file cannot be read, is empty, or gives a password to something that is no URL; names the setting.
    """
    url = settings.database_url
    if settings.database_url_file is not None:
        url = secret("database_url_file", settings.database_url_file)
    if settings.database_password_file is None:
        return url
    password = secret("database_password_file", settings.database_password_file)
    try:
        return make_url(url).set(password=password).render_as_string(hide_password=False)
    except ArgumentError:
        raise _fault("database_url", "No URL that a password could be added to.") from None


def secret(name: str, path: Path) -> str:
    """What a file of secrets holds, without the end of its line; SpecError naming the setting when that is not a secret."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise _fault(name, f"{path} cannot be read: {why}.") from None
    text = text.rstrip("\r\n")
    if not text or len(text) > _LONGEST or "\n" in text:
        raise _fault(name, f"{path} should hold one line, and nothing else.")
    return text


def database_host(settings: Settings) -> str | None:
    """The machine of the database, as the settings name it; None for a file, or where they cannot be read."""
    try:
        return make_url(database_url(settings)).host
    except (ArgumentError, SpecError):
        return None


def warn_if_open(settings: Settings) -> None:
    """Say so in the log when other users of this machine can read the database's file: it holds the secrets of webhooks."""
    file = file_of(database_url(settings))
    if file is None or not file.is_file():
        return
    enters, reads = (path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in (file.resolve().parent, file))
    if enters and reads:
        log.warning("others can read %s, with the secrets of webhooks: take that from them (chmod 600)", file)


def _fault(name: str, detail: str) -> SpecError:
    return SpecError([FieldError(PREFIX + name.upper(), detail, "secret")])
