"""The tables and the plots of ``strategies.py``, from its lines; needs nothing but the standard library."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

Json = dict[str, Any]
ALIKE = (
    *("evaluations", "select_size", "select_images", "report_size", "recalibrate_batches", "fine_tune_steps", "precision"),
    *("top_k", "recovery_epochs", "device"),
)
"""Fields of an order that must be equal for runs to be compared."""
OWN = "@own"
"""Behind the name of a strategy that has the recipe it was published with."""
FIRST = ("uniform", "random", "global")
PAIRED = ("random", "uniform")
OWN_RECIPE = (
    "An own recipe is the one that a strategy was published with, not that of others; what it takes, preparation too, "
    "is in its cost."
)
COLUMNS = ("select", "report_before", "report")
PANEL, ROW, LEFT, TOP = 330, 20, 170, 76
INK, FAINT, BEFORE, AFTER = "#222", "#ddd", "#b8860b", "#1f5fa8"


Runs = dict[int, Json]
"""Scores and costs by seed."""


def settings(lines: Sequence[Json]) -> list[list[Json]]:
    """Lines that may be compared with each other, setting by setting, in the order in which they were first run."""
    found: dict[tuple[Any, ...], list[Json]] = {}
    for line in lines:
        found.setdefault(tuple(line["order"].get(key) for key in ALIKE), []).append(line)
    return list(found.values())


def label(name: str) -> str:
    """How a method is called where it stands beside others: a recipe that is not the common one is said."""
    named, own, _ = name.partition(OWN)
    return f"{named}, own recipe" if own else name


def rows(lines: Sequence[Json]) -> dict[tuple[str, float], dict[str, Runs]]:
    """Runs by (network, budget) and method; the controls first, then the best first."""
    found: dict[tuple[str, float], dict[str, Runs]] = {}
    for line in lines:
        group = found.setdefault((line["order"]["network"], line["order"]["budget"]), {})
        for name, row in {line["order"]["strategy"]: line["row"], **line["controls"]}.items():
            group.setdefault(name, {})[line["order"]["seed"]] = row
    ordered = {
        key: [n for n in FIRST if n in methods]
        + sorted(set(methods) - set(FIRST), key=lambda n: -statistics.fmean(values(methods[n], "select")))
        for key, methods in found.items()
    }
    return {key: {name: found[key][name] for name in ordered[key]} for key in sorted(found, key=lambda k: (k[0], -k[1]))}


def values(runs: Runs, column: str) -> list[float]:
    """One column of a method's runs."""
    return [run[column] for run in runs.values()]


def paired(runs: Runs, control: Runs) -> str:
    """How far the report after recovery is above a control's, seed by seed; nothing for the control itself."""
    return "" if runs is control else shown([runs[s]["report"] - control[s]["report"] for s in runs if s in control])


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of one value is NaN."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def shown(values: Sequence[float]) -> str:
    """Per cent, mean ± standard error; nothing of no values."""
    if not values:
        return ""
    mean, error = mean_error([100 * v for v in values])
    return f"{mean:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def table(lines: Sequence[Json]) -> str:
    """Markdown: a table for each setting."""
    return "\n".join(table_of(alike) for alike in settings(lines))


def table_of(lines: Sequence[Json]) -> str:
    """One row per network, budget and method of a setting."""
    order = lines[0]["order"]
    base = {line["order"]["network"]: 100 * line["base"]["report"] for line in lines}
    head = ["network", "MACs", "method", "seeds", "select", "report, before", "report, recovered"]
    head += [f"− {control}" for control in PAIRED]
    body = [[*head, "evaluations", "images", "CPU s"], ["---"] * 3 + ["---:"] * (len(head))]
    for (network, budget), methods in rows(lines).items():
        for name, runs in methods.items():
            spent = [f"{statistics.fmean(values(runs, key)):,.0f}" for key in ("evaluations", "images", "cpu_seconds")]
            scores = [shown(values(runs, column)) for column in COLUMNS]
            above = [paired(runs, methods.get(control, {})) for control in PAIRED]
            body.append([network, f"{budget:.0%}", label(name), str(len(runs)), *scores, *above, *spent])
    error = 100 * math.sqrt(0.09 / order["report_size"])
    said = (
        f"Top-1 in per cent, mean ± standard error over seeds; {order['evaluations']} evaluations on "
        f"{order['select_images']:,} select images each, leaders confirmed on {order['select_size']:,} (the column select), "
        f"{order['recalibrate_batches']} batches of 256 to re-estimate statistics, {order['precision']}, recovery of "
        f"{order['recovery_epochs']:g} epochs for the best {order['top_k']}, report on {order['report_size']:,} images (the "
        f"standard error of one network at 90 % is {error:.2f} there). The columns with a minus sign are the report after "
        f"recovery less that control's, paired by seed. Images and CPU seconds are those of preparation, search and "
        f"confirmation. Full: "
        + ", ".join(f"{network} {score:.2f}" for network, score in sorted(base.items()))
        + ". Select images were seen when the weights were trained."
        + (f" {OWN_RECIPE}" if any(OWN in line["order"]["strategy"] for line in lines) else "")
    )
    return said + "\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in body) + "\n"


def plots(lines: Sequence[Json]) -> dict[str, str]:
    """A plot for each setting, by the name of its file: that of its networks, numbered where settings share them."""
    found: dict[str, str] = {}
    used: Counter[str] = Counter()
    for alike in settings(lines):
        networks = "-".join(sorted({line["order"]["network"] for line in alike}))
        used[networks] += 1
        found[f"plot-{networks}{f'-{used[networks]}' if used[networks] > 1 else ''}.svg"] = plot(alike)
    return found


def plot(lines: Sequence[Json]) -> str:
    """SVG: report top-1 before (hollow) and after recovery (filled) with standard errors, a panel per network and budget."""
    order = lines[0]["order"]
    setting = (
        f"{order['evaluations']} evaluations on {order['select_images']:,} select images, leaders on "
        f"{order['select_size']:,}; recovery of {order['recovery_epochs']:g} epochs; {order['precision']}"
    )
    panels = rows(lines)
    names = list(dict.fromkeys(name for methods in panels.values() for name in methods))
    width, height = max(LEFT + PANEL * len(panels), 700), TOP + ROW * len(names) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(12, 18, "report top-1, %: hollow before recovery, filled after; bars are standard errors over seeds"),
        text(12, 36, setting),
    ]
    parts += [text(LEFT - 8, TOP + ROW * i + 16, label(name), anchor="end") for i, name in enumerate(names)]
    for i, ((network, budget), methods) in enumerate(panels.items()):
        parts += panel(LEFT + PANEL * i, f"{network}, {budget:.0%} of MACs", methods, names)
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(left: float, title: str, methods: dict[str, Runs], names: Sequence[str]) -> list[str]:
    """One panel, with its own axis."""
    points = {
        (name, column): mean_error([100 * v for v in values(runs, column)])
        for name, runs in methods.items()
        for column in COLUMNS[1:]
    }
    low = math.floor(min(m - (e if e == e else 0) for m, e in points.values()))
    high = max(math.ceil(max(m + (e if e == e else 0) for m, e in points.values())), low + 1)
    bottom = TOP + ROW * len(names) + 4

    def x(value: float) -> float:
        return left + 12 + (PANEL - 36) * (value - low) / (high - low)

    parts = [text(left + 12, TOP - 10, title)]
    step = max(1, math.ceil((high - low) / 6))
    for tick in range(low, high + 1, step):
        parts += [line(x(tick), TOP, x(tick), bottom, FAINT), text(x(tick), bottom + 16, str(tick), anchor="middle")]
    for (name, column), (mean, error) in points.items():
        y, after = TOP + ROW * names.index(name) + 12, column == "report"
        colour = AFTER if after else BEFORE
        if error == error:
            parts.append(line(x(mean - error), y, x(mean + error), y, colour))
        fill = colour if after else "#fff"
        parts.append(f'<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.5"/>'


def text(x: float, y: float, said: str, *, anchor: str = "start") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
