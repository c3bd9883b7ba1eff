"""Following a search: one moving line on a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from automl_prune.report.numbers import quality
from services.cli.client import UnreachableError
from services.cli.text import Json, clean

ENDED = ("succeeded", "failed", "cancelled")
PATIENCE_SECONDS = 30.0
"""How long a server may be away, while a search is followed, before following gives up."""

_ARMS = ("search", "uniform", "random", "global")
_STEPS = 10


class Display(Protocol):
    """Shows a search, as ``GET /v1/searches/{id}`` describes it, each time it is told."""

    def update(self, search: Json) -> None:
        """Show how the search stands now."""
        ...


def follow(
    fetch: Callable[[], Json],
    display: Display,
    *,
    pause: float = 1.0,
    patience: float = PATIENCE_SECONDS,
    wait: Callable[[float], object] = time.sleep,
) -> Json:
    """Ask for a search until it ended, and return it; UnreachableError when the server stays away.

    Before it asks again it calls ``wait`` with ``pause``, the seconds to wait where nobody says that there is news.
    """
    answered = time.monotonic()
    while True:
        try:
            search = fetch()
        except UnreachableError:
            if time.monotonic() - answered > patience:
                raise
        else:
            answered = time.monotonic()
            display.update(search)
            if search["state"] in ENDED:
                return search
        wait(pause)


@contextmanager
def shown(console: Console) -> Iterator[Display]:
    """A display on this console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Line(progress)


class Line:
    """One line that moves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, best="")

    def update(self, search: Json) -> None:
        """Show how the search stands now."""
        done, total = evaluated(search)
        what = (clean(search["state_reason"]) or search["state"]) + slots(search)
        self._progress.update(self._task, description=what, completed=done, total=total, best=best_so_far(search))


class Lines:
    """A line for every change of state and for every tenth of the way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def update(self, search: Json) -> None:
        """Print a line if there is something new."""
        done, total = evaluated(search)
        now = (stage(search), done * _STEPS // total)
        if now != self._last:
            self._last = now
            best = best_so_far(search)
            self._console.print(f"{now[0]}, {done} of {total} candidates{f', best {best}' if best else ''}")


def evaluated(search: Json) -> tuple[int, int]:
    """How many candidates were evaluated, controls included, and how many there will be at most."""
    arms = search["progress"]["arms"]
    done = sum(n for arm in _ARMS for state, n in arms.get(arm, {}).items() if state not in ("pending", "running"))
    return done, search["progress"]["total"]


def slots(search: Json) -> str:
    """How many of a running search's slots are busy, as a part of a sentence."""
    progress = search["progress"]
    known = search["state"] == "running" and progress["slots"]
    return f", {progress['running']} of {progress['slots']} slots busy" if known else ""


def stage(search: Json) -> str:
    """The state and, where there is one, its reason."""
    reason = clean(search["state_reason"])
    return f"{search['state']}: {reason}" if reason else str(search["state"])


def best_so_far(search: Json) -> str:
    """The best score so far, as in ``top1 91.50 %``; nothing before there is one."""
    if search["best"] is None:
        return ""
    metric = search["spec"]["objective"]
    return f"{metric} {quality(metric, search['best']['metrics'].get(metric))}"
