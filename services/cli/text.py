"""What commands print: JSON as it is, numbers with units, tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from automl_prune.report.numbers import amount, quality

Json = dict[str, Any]

_WIDE = 200
_BAR = 24


def console(*, stderr: bool = False) -> Console:
    """Where people read: wide enough for every table when nobody's terminal sets a width, and no text is markup."""
    found = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    return found if found.is_terminal else Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=_WIDE)


def echo_json(data: object) -> None:
    """JSON, and nothing else, on stdout."""
    typer.echo(json.dumps(data, indent=1, allow_nan=False))


def echo_line(data: object) -> None:
    """JSON on one line of stdout."""
    typer.echo(json.dumps(data, allow_nan=False))


def clean(text: object) -> str:
    """Text from elsewhere without control characters, which terminals would obey; None becomes nothing."""
    return "" if text is None else "".join(c if c.isprintable() else " " for c in str(text))


def table(*headings: str, rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> Table:
    """A table; columns named in ``right`` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(clean(cell) for cell in row))
    return made


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, those left out that are None."""
    made = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value is not None:
            made.add_row(name, clean(value))
    return made


def costs(values: Mapping[str, float]) -> str:
    """MACs and parameters on one line."""
    return ", ".join(f"{amount(values[name])} {name}" for name in ("macs", "params") if name in values)


def budgets(items: Sequence[Mapping[str, Any]]) -> str:
    """Absolute budgets, as in ``macs ≤ 62.7 M``."""
    bounds = [
        (f"{i['metric']} on {i['device']}" if i.get("device") else i["metric"], sign, i[side])
        for i in items
        for side, sign in (("min", "≥"), ("max", "≤"))
        if i[side] is not None
    ]
    return ", ".join(f"{metric} {sign} {amount(value)}" for metric, sign, value in bounds)


def estimate(time: Mapping[str, Any]) -> str:
    """How long an order would take, and how that is known."""
    if time["seconds"] is None:
        return f"unknown: {time['reason']}"
    return (
        f"about {duration(time['seconds'])} for evaluations, {time['at_once']} at once, "
        f"{time['seconds_per_evaluation']:.2g} s each ({time['basis']}), without {time['leaves_out']}"
    )


def duration(seconds: float) -> str:
    """A time in the largest unit that leaves more than one of it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def results(result: Mapping[str, Any]) -> Table:
    """The networks of a finished search side by side: the full one, the best found, and the controls."""
    metric = result["provenance"]["objective"]
    base = result["base_metrics"]
    rows = [_result("full network", base, base, metric, base.get("select"), None)]
    best = result["metrics"]
    rows.append(_result("best of the search", best, base, metric, best["search"], best.get(f"{metric}_before_recovery")))
    for arm, row in result["controls"].items():
        rows.append(_result(f"control: {arm}", row, base, metric, row["search"], row.get(f"{metric}_before_recovery")))
    devices = tuple(base.get("latency_ms", {}))
    measured = [[amount(row["latency_ms"][name]) for name in devices] for row in (base, best, *result["controls"].values())]
    scores = (f"search {metric}", f"report {metric} before", "after recovery", "macs", "of full", "params")
    numbers = (*scores, *(f"ms on {name}" for name in devices))
    return table("network", *numbers, rows=[(*row, *ms) for row, ms in zip(rows, measured, strict=True)], right=numbers)


def groups(result: Mapping[str, Any]) -> Table:
    """How much was kept of each group that can be cut."""
    cut = [g for g in result["groups"] if not g["frozen"]]
    rows = [(g["name"], f"{g['width']}/{g['full_width']}", bar(g["width"] / g["full_width"])) for g in cut]
    return table("group", "kept", "", rows=rows, right=("kept",))


def bar(share: float) -> str:
    """A share between 0 and 1 as a bar."""
    filled = max(1, round(share * _BAR)) if share else 0
    return "█" * filled + "░" * (_BAR - filled)


def _result(
    name: str,
    row: Mapping[str, Any],
    base: Mapping[str, Any],
    metric: str,
    searched: Mapping[str, float] | None,
    before: float | None,
) -> tuple[str, ...]:
    return (
        name,
        quality(metric, (searched or {}).get(metric)),
        quality(metric, before),
        quality(metric, row.get(metric)),
        amount(row.get("macs")),
        f"{100 * row['macs'] / base['macs']:.1f} %" if base.get("macs") else "–",
        amount(row.get("params")),
    )
