"""Drawings of what widths have to do with scores, each on axes of its own."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from automl_prune.report.importance import evenly, ranked
from automl_prune.report.numbers import quality, title
from automl_prune.report.told import Told

MOST_LINES = 150
MOST_BARS = 24
MOST_AXES = 30
FIFTHS = ("#0b4fa8", "#2f8ac4", "#7fb8a4", "#d9a441", "#c2560a")
RISES, FALLS = "#1f5fa8", "#c2560a"


def parallel(told: Told, full: Mapping[str, int], found: Sequence[tuple[str, float]], axes: Axes) -> None:
    """One line per trial, through the part it keeps of every group, to its score; the best fifth is darkest blue."""
    strength = {name: abs(value) for name, value in found}
    kept = set(sorted(full, key=lambda name: -strength.get(name, 0.0))[:MOST_AXES])
    names = [name for name in full if name in kept]
    lines = evenly(ranked(told), MOST_LINES)
    scores = [float(trial["metrics"][told.metric]) for trial in lines]
    best, worst = scores[0], scores[-1]
    for i, trial in reversed(list(enumerate(lines))):
        place = 0.5 if best == worst else (scores[i] - worst) / (best - worst)
        heights = [*(trial["widths"][name] / full[name] for name in names), place]
        axes.plot(range(len(heights)), heights, color=FIFTHS[5 * i // len(lines)], linewidth=0.9, alpha=0.5)
    ends = f"{title(told.metric)}, {quality(told.metric, worst)} to {quality(told.metric, best)}"
    axes.set_xticks(
        range(len(names) + 1), [*names, ends], rotation=60, ha="right", rotation_mode="anchor", fontsize="x-small"
    )
    axes.margins(x=0.01)
    axes.set_ylabel("part of channels kept")


def importance_bars(found: Sequence[tuple[str, float]], trials: int, axes: Axes) -> None:
    """The strongest rank correlations, and what one group in twenty exceeds by chance."""
    shown = found[:MOST_BARS]
    colours = [RISES if value > 0 else FALLS for _, value in shown]
    axes.barh([name for name, _ in shown], [abs(value) for _, value in shown], color=colours)
    axes.axvline(1.96 / (trials - 1) ** 0.5, color="#222", linestyle=":", linewidth=1, label="one in twenty by chance")
    axes.barh([shown[0][0]], [0], color=RISES, label="wider went with better")
    axes.barh([shown[0][0]], [0], color=FALLS, label="wider went with worse")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize="x-small")
    axes.set_xlabel("rank correlation of width and score")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
