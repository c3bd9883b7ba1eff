"""Drawings of a search, each on axes of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from automl_prune.report.importance import MOST_TRIALS, importances
from automl_prune.report.numbers import amount, quality, title
from automl_prune.report.told import ARMS, LATENCY, Span, Told
from automl_prune.report.width_drawings import MOST_AXES, MOST_BARS, MOST_LINES, importance_bars, parallel

COLOURS = {"search": "#1f5fa8", "random": "#b8860b", "uniform": "#2e7d32", "global": "#8e4585"}
LEVELS = ("uniform", "global")
"""Arms of one candidate: a level to beat, not a progress."""
INCHES = (7.0, 4.5)
MOST_SPANS = 1000
STATES = {"complete": "#4f9a80", "stopped": "#ad8a4a", "infeasible": "#6a4bc4", "failed": "#a11d2b", "cancelled": "#8a949d"}
UNSCORED = {
    "stopped": ("stopped early, so not scored", "+", STATES["stopped"]),
    "infeasible": ("too slow, so not scored", "x", STATES["failed"]),
}
"""What trials without a score are called, and drawn as, by state."""


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
        yield Drawing("trials", f"{metric} on the select split against {cost}, all scored trials", partial(_trials, told))
    if any(told.best_so_far(arm) for arm in ARMS):
        yield Drawing("progress", f"Best {metric} within the budgets after so many evaluations", partial(_progress, told))
    if told.result is not None:
        cut = [group for group in told.result["groups"] if not group["frozen"]]
        inches = (INCHES[0], max(2.5, 0.22 * len(cut) + 1))
        yield Drawing("widths", "Channels kept of every group that was searched", partial(_widths, cut), inches)
    yield from _of_widths(told)
    if times := told.spans():
        shown = f"the last {MOST_SPANS:,} of {len(times):,}" if len(times) > MOST_SPANS else f"all {len(times):,}"
        rows = max(row for *_, row in times) + 1
        caption = f"From start to record of trials ({shown}); rows are parallel slots, not certain workers"
        yield Drawing("timeline", caption, partial(_timeline, times[-MOST_SPANS:]), (INCHES[0], 1.6 + 0.2 * min(rows, 32)))
    for device, about in told.devices.items():
        caption = f"Measured against predicted latency on {device}, {len(about['check']['measured'])} networks"
        yield Drawing(f"latency-{device}-check", caption, partial(_check, about["check"]), (5.0, 4.5))
        if any(f"{LATENCY}@{device}" in t["metrics"] for arm in ARMS for t in told.scored(arm)):
            caption = (
                f"Latency on {device} against MACs, with trials that have no score; {told.source(f'{LATENCY}@{device}')}"
            )
            yield Drawing(f"latency-{device}-macs", caption, partial(_against_macs, told, device))


def _of_widths(told: Told) -> Iterator[Drawing]:
    space = told.search["info"].get("space")
    number = sum(len(told.scored(arm)) for arm in ARMS)
    if not space or not number:
        return
    full, found = dict(zip(space["names"], space["full"], strict=True)), importances(told)
    shown = "all" if number <= MOST_LINES else f"{MOST_LINES} evenly by rank of {number:,}"
    groups = f"; the {MOST_AXES} groups that go most with the score" if len(full) > MOST_AXES else ""
    caption = f"Widths and {title(told.metric)} of scored trials ({shown}), coloured by fifths{groups}"
    yield Drawing("parallel", caption, partial(parallel, told, full, found), (INCHES[0] + 2, INCHES[1]))
    if found:
        used = min(number, MOST_TRIALS)
        caption = f"Spearman rank correlation of widths and score, {used:,} trials: what went together, not what causes what"
        inches = (INCHES[0], max(2.5, 0.22 * min(len(found), MOST_BARS) + 1))
        yield Drawing("importances", caption, partial(importance_bars, found, used), inches)


def _timeline(spans: Sequence[Span], axes: Axes) -> None:
    for state, colour in STATES.items():
        shown = [(start, end, row) for found, start, end, row in spans if found == state]
        if shown:
            rows, starts = [row + 1 for *_, row in shown], [start for start, *_ in shown]
            long = [end - start for start, end, _ in shown]
            axes.barh(rows, long, left=starts, color=colour, edgecolor="white", linewidth=0.4, label=state)
    axes.margins(x=0.01)
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("seconds since the start of the search")
    axes.set_ylabel("slot")
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower left", bbox_to_anchor=(0, 1))


def _trials(told: Told, axes: Axes) -> None:
    metric, cost = told.metric, told.cost
    for arm, name in reversed(ARMS.items()):
        known = [t["metrics"] for t in told.scored(arm) if cost in t["metrics"]]
        if known:
            axes.scatter([m[cost] for m in known], [m[metric] for m in known], s=22, label=name, color=COLOURS[arm])
    if metric in told.base:
        axes.axhline(told.base[metric], color="#222", linestyle=":", linewidth=1, label="full network")
    _bounds(told, axes)
    _label(axes, ", ".join(filter(None, (title(cost), told.source(cost)))), f"{title(metric)}, select split")
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
    for state, (name, marker, colour) in UNSCORED.items():
        known = [t["metrics"] for t in told.unscored(state) if metric in t["metrics"] and "macs" in t["metrics"]]
        if known:
            x, y = [m["macs"] for m in known], [m[metric] for m in known]
            axes.scatter(x, y, s=22, marker=marker, color=colour, label=name)
    if metric in told.base and "macs" in told.base:
        axes.scatter(told.base["macs"], told.base[metric], s=60, marker="*", color="#222", label="full network")
    _label(axes, title("macs"), f"{title(metric)}, {told.source(metric)}")


def _label(axes: Axes, cost: str, score: str) -> None:
    axes.set_xlabel(cost)
    axes.set_ylabel(score)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.legend(frameon=False, fontsize="small")
