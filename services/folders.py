"""What clients read instead of where this server keeps things: names of its folders, never their places."""

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from services.settings import LOOPBACK, Settings

LONGEST = 8192
"""Of a folder's place, or the words around a host."""

_NAMES = {
    "data_root": "data root",
    "weights_root": "weights root",
    "artifacts_root": "artifacts folder",
    "cache_dir": "cache folder",
    "home": "service's home",
}


def without_places(text: str, settings: Settings) -> str:
    """A message in which the server's folders go by their names: ``(data root)/flowers``, or ``the data root`` itself."""
    for place, name in sorted(_places(settings), key=lambda found: -len(found[0])):
        here = _here(place)
        text = re.sub(f"{here}/", f"({name})/", text)
        text = re.sub(here, f"the {name}", text)
    return text


def veiled(text: bytes, settings: Settings, host: str | None) -> bytes:
    """A piece of a log in which folders, the program's too, and the database's host go by names as long as they are.

    Every byte keeps its place, so that the piece can be cut anywhere; a name is read whole within ``LONGEST`` bytes.
    """
    program = [str(Path(place)) for place in (Path(__file__).parents[1], sys.prefix, sys.base_prefix, Path.home())]
    places = [*_places(settings), *((place, "program") for place in program if place != "/")]
    found = text.decode("latin-1")  # a character for a byte
    for place, name in sorted(places, key=lambda found: -len(found[0])):
        found = re.sub(_here(place.encode().decode("latin-1")), partial(_veil, name), found)
    hosts = [r'(?<=host name ")[^"\n]{1,255}', r'(?<=server at ")[^"\n]{1,255}(" \([^)\n]{1,255}\))?']
    if host and host not in LOOPBACK:
        hosts.append(rf"(?<![\w.-]){re.escape(host)}(?![\w-])")
    for here in hosts:
        found = re.sub(here, partial(_veil, "database"), found)
    return found.encode("latin-1")


def _veil(name: str, match: re.Match[str]) -> str:
    length = len(match[0])
    return f"({name})"[:length].ljust(length, "_")


def _here(place: str) -> str:
    return rf"(?<![\w.-]){re.escape(place)}(?![\w.-]*[\w-])"  # not /data2, nor /data.old, but /data. at a sentence's end


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    """Folders as they are set and as they are once links are followed."""
    for field, name in _NAMES.items():
        folder = getattr(settings, field)
        for place in {str(folder), str(folder.resolve())} - {"/"}:
            yield place, name
