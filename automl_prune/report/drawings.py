"""Drawings of a search, each on axes of its own; only this module knows matplotlib."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from automl_prune.report.numbers import amount, quality, title
from automl_prune.report.told import ARMS, LATENCY, Told

COLOURS = {"search": "#1f5fa8", "random": "#b8860b", "uniform": "#2e7d32", "global": "#8e4585"}
LEVELS = ("uniform", "global")
"""Arms of one candidate: a level to beat, not a progress."""
INCHES = (7.0, 4.5)


@dataclass(frozen=True)
class Drawing:
    """A file's name without its ending, what it shows, and what draws it."""

    name: str
    caption: str
    draw: Callable[[Axes], None]
    inches: tuple[float, float] = INCHES

    def save(self, file: Path) -> None:
        """Write it; the format is that of the file's ending, and the same data make the same bytes."""
        with matplotlib.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none", "axes.spines.top": False}):
            figure = Figure(figsize=self.inches, layout="constrained")
            self.draw(figure.subplots())
            figure.savefig(file, dpi=144, metadata={"Date": None} if file.suffix == ".svg" else None)


def drawings(told: Told) -> Iterator[Drawing]:
    """All that there is something to draw for."""
    metric, cost = title(told.metric), title(told.cost)
    if any(told.cost in t["metrics"] for arm in ARMS for t in told.scored(arm)):
        yield Drawing("trials", f"{metric} on the select split against {cost}, all trials", partial(_trials, told))
    if any(told.best_so_far(arm) for arm in ARMS):
        yield Drawing("progress", f"Best {metric} within the budgets after so many evaluations", partial(_progress, told))
    if told.result is not None:
        cut = [group for group in told.result["groups"] if not group["frozen"]]
        inches = (INCHES[0], max(2.5, 0.22 * len(cut) + 1))
        yield Drawing("widths", "Channels kept of every group that was searched", partial(_widths, cut), inches)
    for device, about in told.devices.items():
        caption = f"Measured against predicted latency on {device}, {len(about['check']['measured'])} networks"
        yield Drawing(f"latency-{device}-check", caption, partial(_check, about["check"]), (5.0, 4.5))
        if any(f"{LATENCY}@{device}" in t["metrics"] for arm in ARMS for t in told.scored(arm)):
            caption = f"Latency on {device} against MACs, all trials; predicted, unless every candidate was measured"
            yield Drawing(f"latency-{device}-macs", caption, partial(_against_macs, told, device))


def _trials(told: Told, axes: Axes) -> None:
    metric, cost = told.metric, told.cost
    for arm, name in reversed(ARMS.items()):
        known = [t["metrics"] for t in told.scored(arm) if cost in t["metrics"]]
        if known:
            axes.scatter([m[cost] for m in known], [m[metric] for m in known], s=22, label=name, color=COLOURS[arm])
    if metric in told.base:
        axes.axhline(told.base[metric], color="#222", linestyle=":", linewidth=1, label="full network")
    _bounds(told, axes)
    _label(axes, told.cost, f"{title(metric)}, select split")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quality(metric, value)))


def _bounds(told: Told, axes: Axes) -> None:
    for bound in told.bounds:
        for sign, value in (("≥", bound.least), ("≤", bound.most)):
            if bound.metric == told.cost and value is not None:
                axes.axvline(value, color="#b00020", linewidth=1, linestyle="--", label=f"budget {sign} {amount(value)}")


def _progress(told: Told, axes: Axes) -> None:
    lines = {arm: line for arm in ARMS if (line := told.best_so_far(arm))}
    last = max(count for line in lines.values() for count, _ in line)
    for arm, line in lines.items():
        told_as = f"{ARMS[arm]}, {quality(told.metric, line[-1][1])}"
        if arm in LEVELS:
            axes.axhline(line[-1][1], color=COLOURS[arm], linewidth=1.5, label=told_as)
        else:
            steps = [*line, (last, line[-1][1])]
            axes.step(*zip(*steps, strict=True), where="post", color=COLOURS[arm], linewidth=1.8, label=told_as)
    axes.set_xlabel("evaluations")
    axes.set_ylabel(f"best {title(told.metric)} so far")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quality(told.metric, value)))
    axes.legend(frameon=False, fontsize="small")


def _widths(groups: list[dict[str, int]], axes: Axes) -> None:
    names = [str(group["name"]) for group in groups]
    axes.barh(names, [group["full_width"] for group in groups], color="#e4e4e4")
    bars = axes.barh(names, [group["width"] for group in groups], color=COLOURS["search"])
    axes.bar_label(bars, [f" {g['width']}/{g['full_width']}" for g in groups], fontsize="x-small")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize="x-small")
    axes.set_xlabel("channels")


def _check(check: dict[str, list[float]], axes: Axes) -> None:
    both = [*check["predicted"], *check["measured"]]
    axes.plot([min(both), max(both)], [min(both), max(both)], color="#222", linewidth=1, linestyle=":", label="equal")
    axes.scatter(check["predicted"], check["measured"], s=22, color=COLOURS["search"], label="not fitted to")
    axes.set_xlabel("predicted, ms")
    axes.set_ylabel("measured, ms")
    axes.legend(frameon=False, fontsize="small")


def _against_macs(told: Told, device: str, axes: Axes) -> None:
    metric = f"{LATENCY}@{device}"
    for arm, name in reversed(ARMS.items()):
        known = [t["metrics"] for t in told.scored(arm) if metric in t["metrics"]]
        if known:
            axes.scatter([m["macs"] for m in known], [m[metric] for m in known], s=22, label=name, color=COLOURS[arm])
    if metric in told.base and "macs" in told.base:
        axes.scatter(told.base["macs"], told.base[metric], s=60, marker="*", color="#222", label="full network")
    _label(axes, "macs", title(metric))


def _label(axes: Axes, cost: str, score: str) -> None:
    axes.set_xlabel(title(cost))
    axes.set_ylabel(score)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.legend(frameon=False, fontsize="small")
