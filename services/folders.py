"""What clients read instead of where this server keeps things: names of its folders, never their places."""

import re
from collections.abc import Iterator

from services.settings import Settings

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
        here = rf"(?<![\w.-]){re.escape(place)}(?![\w.-]*[\w-])"  # not /data2, nor /data.old, but /data. at a sentence's end
        text = re.sub(f"{here}/", f"({name})/", text)
        text = re.sub(here, f"the {name}", text)
    return text


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    """Folders as they are set and as they are once links are followed."""
    for field, name in _NAMES.items():
        folder = getattr(settings, field)
        for place in {str(folder), str(folder.resolve())} - {"/"}:
            yield place, name
