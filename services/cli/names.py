"""Commands that list what a SearchSpec can name; they need no server."""

from collections.abc import Callable

from automl_prune import plugins
from services.cli import text
from services.cli.options import AsJson
from services.cli.text import Json, echo_json
from services.settings import load_settings


def strategies(as_json: AsJson = False) -> None:
    """List the strategies."""
    show_catalog("strategies", as_json, ("name", "presets", "options", "help", "paper"), _strategy)


def criteria(as_json: AsJson = False) -> None:
    """List the criteria that rank channels."""
    show_catalog("criteria", as_json, ("name", "help", "paper"), _named)


def datasets(as_json: AsJson = False) -> None:
    """List the datasets."""
    show_catalog("datasets", as_json, ("name", "help"), lambda item: _named(item)[:2])


def show_catalog(kind: str, as_json: bool, headings: tuple[str, ...], row: Callable[[Json], tuple[object, ...]]) -> None:
    """Print everything of a kind that is registered; what cannot be, for a broken plug-in, is said on stderr by its log."""
    from services.api.catalog import catalog

    plugins.allow(load_settings().plugins)
    listing = catalog()[kind]
    if as_json:
        echo_json(listing)
    else:
        text.console().print(text.table(*headings, rows=map(row, listing["items"])))


def _strategy(item: Json) -> tuple[object, ...]:
    options = item["options"].get("properties", {})
    return item["name"], ", ".join(item["presets"]), ", ".join(options), item["help"], item["paper"]


def _named(item: Json) -> tuple[object, ...]:
    return item["name"], item["help"], item["paper"]
