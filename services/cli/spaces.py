"""``automl-prune spaces``: the networks that can be searched, and what the space of one of them is; no server needed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from automl_prune import plugins
from automl_prune.errors import SpecError, UserError
from automl_prune.report.numbers import amount
from services.cli import text
from services.cli.names import show_catalog
from services.cli.options import AsJson
from services.cli.text import Json, echo_json

Describe = Annotated[str | None, typer.Option(metavar="NAME", help="Trace and verify this network; list its groups.")]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="A declaration published with the network.")]
RoundTo = Annotated[int | None, typer.Option(metavar="N", help="Widths are multiples of this.")]
MinRatio = Annotated[float | None, typer.Option(metavar="R", help="Least part of its full width that a group keeps.")]
Frozen = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Groups or layers kept whole; may be repeated.")]
Classes = Annotated[int | None, typer.Option(metavar="K", help="Classes of the described network.")]
All = Annotated[bool, typer.Option("--all", help="Every name in full, and the groups that are kept whole one by one.")]

_NAMES, _REASONS = 3, 12
_MANY = 60
"""Searched groups from which on layers are counted instead of named, so that each keeps to one line."""


def spaces(
    describe: Describe = None,
    preset: Preset = None,
    round_to: RoundTo = None,
    min_ratio: MinRatio = None,
    frozen: Frozen = None,
    num_classes: Classes = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """List the networks that can be searched by name, or describe the space of one."""
    changes = {"preset": preset, "round_to": round_to, "min_ratio": min_ratio, "frozen": frozen, "num_classes": num_classes}
    given = {name: value for name, value in changes.items() if value is not None}
    if describe is not None:
        found = described({"name": describe, **given})
        if as_json:
            echo_json(found)
        else:
            show(found, text.console(), everything)
    elif given:
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')} changes what is described; name a network with --describe."
        )
    else:
        show_catalog("search-spaces", as_json, ("name", "input", "classes", "presets", "help"), _row)


def described(order: Mapping[str, Any]) -> Json:
    """What a ``search_space`` amounts to: the same groups, totals and costs as ``searches:validate`` answers.

    Raises:
        UserError: Any of its kinds, with the JSON pointer of the field.
    """
    from pydantic import ValidationError

    from automl_prune.costs import CostModel
    from automl_prune.describe import describe
    from automl_prune.loop.plan import ordered_space
    from automl_prune.loop.spec import SearchSpaceSpec, field_errors
    from automl_prune.networks import NETWORKS
    from services.admission import Admissions
    from services.settings import load_settings

    settings = load_settings()
    plugins.allow(settings.plugins)
    try:
        wanted = SearchSpaceSpec.model_validate(order)
    except ValidationError as error:
        raise SpecError(field_errors(error, "/search_space")) from None
    network = NETWORKS.get(wanted.name)
    network.preset(wanted.preset)
    classes = wanted.num_classes or network.num_classes
    architecture = Admissions(settings)(network, classes, settings.cache_dir)
    space = ordered_space(wanted, network, architecture, allow_empty=True)
    return {
        "name": network.name,
        "input_shape": list(network.input_shape),
        "num_classes": classes,
        **describe(architecture, space, CostModel(architecture, space.names)),
    }


def show(found: Json, screen: Console, everything: bool) -> None:
    """Print a described space for people."""
    show_groups(found, screen, everything)
    screen.print()
    screen.print(text.facts([("network", _network(found)), *facts(found)]))
    screen.print()
    ends = [(name, amount(full), amount(found["narrowest"][name])) for name, full in found["base"].items()]
    screen.print(text.table("cost", "full", "narrowest", rows=ends, right=("full", "narrowest")))


def show_groups(found: Json, screen: Console, everything: bool) -> None:
    """Print the searched groups of a described space one by one; with ``everything`` those that are kept whole, too."""
    searched = [g for g in found["groups"] if g["searched"]]
    most = None if everything else _NAMES if len(searched) < _MANY else 0
    rows = [_group(g, most) for g in searched]
    if rows:
        headings = ("group", "width", "allowed", "choices", "divisor", "put out by", "cut with it")
        screen.print(text.table(*headings, rows=rows, right=("width", "choices", "divisor")))
    if everything and len(searched) < len(found["groups"]):
        whole = [(g["name"], g["width"], g["frozen"]) for g in found["groups"] if not g["searched"]]
        screen.print()
        screen.print(text.table("kept whole", "width", "reason", rows=whole, right=("width",)))


def facts(found: Json) -> Iterator[tuple[str, str]]:
    """How many groups of a described space are searched, why the others are not, and its size."""
    totals = found["totals"]
    yield "groups", f"{totals['searched']} searched, {totals['frozen']} kept whole"
    for part in found["kept_whole"][:_REASONS]:
        yield "not searched", f"{part['count']}: {part['reason']} ({_some(part['groups'], _NAMES)})"
    if left := found["kept_whole"][_REASONS:]:
        yield "not searched", f"{sum(part['count'] for part in left)}: {len(left)} more reasons, see --json"
    yield "space", f"10^{found['log10_size']:.1f} candidates"


def widths(group: Json) -> str:
    """The allowed widths of a group, as in ``8–64 by 8``."""
    found = group["widths"]
    if found["step"] is None:
        listed = found.get("list", [found["max"]])
        return " ".join(map(str, listed if len(listed) <= 8 else [*listed[:5], "…", *listed[-2:]]))
    return f"{found['min']}–{found['max']}" + (f" by {found['step']}" if found["step"] > 1 else "")


def _group(group: Json, most: int | None) -> tuple[object, ...]:
    producers = group["producers"]
    others = [name for name in group["members"] if name not in producers]
    numbers = group["choices"], group["divisor"]
    return group["name"], group["width"], widths(group), *numbers, _some(producers, most), _some(others, most)


def _network(found: Json) -> str:
    shape = "×".join(map(str, found["input_shape"]))
    return f"{found['name']}, input {shape}, {found['num_classes']} classes"


def _some(names: Sequence[str], most: int | None) -> str:
    if most is None or len(names) <= most:
        return " ".join(names)
    return f"{' '.join(names[:most])} +{len(names) - most}" if most else str(len(names))


def _row(item: Json) -> tuple[object, ...]:
    shape = "×".join(map(str, item["input_shape"]))
    return item["name"], shape, item["num_classes"], ", ".join(item["presets"]), item["help"]
