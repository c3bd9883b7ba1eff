"""Commands that list what a SearchSpec can name; they need no server."""

from collections.abc import Callable
from typing import Annotated

import typer

from services.cli import text
from services.cli.options import AsJson
from services.cli.text import Json, echo_json

Describe = Annotated[str | None, typer.Option(metavar="NAME", help="Trace and verify this network; list its groups.")]
Classes = Annotated[int | None, typer.Option(min=2, max=100_000, help="Classes of the described network.")]


def spaces(describe: Describe = None, num_classes: Classes = None, as_json: AsJson = False) -> None:
    """List the networks that can be searched by name, or describe one."""
    if describe is None:
        headings = ("name", "input", "classes", "presets", "help")
        _list("search-spaces", as_json, headings, _space)
        return
    found = described(describe, num_classes)
    if as_json:
        echo_json(found)
        return
    screen = text.console()
    rows = [(g["name"], g["width"], " ".join(g["members"]), g["frozen"]) for g in found["groups"]]
    screen.print(text.table("group", "width", "members", "frozen", rows=rows, right=("width",)))
    screen.print(f"{found['name']}: {text.costs(found['base'])}")


def strategies(as_json: AsJson = False) -> None:
    """List the strategies."""
    _list("strategies", as_json, ("name", "presets", "options", "help", "paper"), _strategy)


def criteria(as_json: AsJson = False) -> None:
    """List the criteria that rank channels."""
    _list("criteria", as_json, ("name", "help", "paper"), _named)


def datasets(as_json: AsJson = False) -> None:
    """List the datasets."""
    _list("datasets", as_json, ("name", "help"), lambda item: _named(item)[:2])


def described(name: str, num_classes: int | None) -> Json:
    """A network as its verified trace sees it: groups, members, and why a group cannot be cut.

    Raises:
        UnknownNameError: There is no such network.
        TraceError: It cannot be described as coupled channels.
    """
    from automl_prune.costs import CostModel
    from automl_prune.networks import NETWORKS
    from automl_prune.search.plan import admitted
    from services.settings import load_settings

    network = NETWORKS.get(name)
    classes = num_classes or network.num_classes
    architecture = admitted(network, classes, load_settings().cache_dir)
    return {
        "name": name,
        "input_shape": list(network.input_shape),
        "num_classes": classes,
        "base": CostModel(architecture).one(),
        "groups": [
            {"name": g.name, "width": g.width, "members": list(g.members), "frozen": g.frozen} for g in architecture.groups
        ],
    }


def _list(kind: str, as_json: bool, headings: tuple[str, ...], row: Callable[[Json], tuple[object, ...]]) -> None:
    from services.api.catalog import catalog

    listing = catalog()[kind]
    if as_json:
        echo_json(listing)
    else:
        text.console().print(text.table(*headings, rows=map(row, listing["items"])))


def _space(item: Json) -> tuple[object, ...]:
    shape = "×".join(map(str, item["input_shape"]))
    return item["name"], shape, item["num_classes"], ", ".join(item["presets"]), item["help"]


def _strategy(item: Json) -> tuple[object, ...]:
    options = item["options"].get("properties", {})
    return item["name"], ", ".join(item["presets"]), ", ".join(options), item["help"], item["paper"]


def _named(item: Json) -> tuple[object, ...]:
    return item["name"], item["help"], item["paper"]
