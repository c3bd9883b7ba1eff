"""Milliseconds that can be trusted: each run is timed in turn with a reference, so that drift of the machine cancels.

A sample is one round of both: as many calls of one and then of the other as take about a millisecond, the order changing
every round. Rounds in which the system took the processor away are left out, and so are those in which the reference took
longer than it does at its best: whatever shares caches and cores slows small networks more than large ones, so that ratios
do not cancel it. Each round gives a ratio; the median of the ratios, times what the reference takes on a quiet machine, is
what a noisy one tells about the milliseconds there.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # no such thing on Windows
    resource = None  # type: ignore[assignment]

from automl_prune.errors import MeasurementError

Run = Callable[[], object]
Clock = Callable[[Run, int], float]
"""Seconds that so many calls of a run take, one after the other."""

WIDE = 0.25
"""An interquartile range of more than this part of the median is no measurement; it is repeated."""
QUIET, GROUP = 0.05, 5
"""By which part a reference may take longer than at its best in rounds that count; they count by the group."""
PATIENCE = 4
"""How many times as many rounds as wanted are made while too few of them count."""
_PER_IQR = 1.2533 / 1.349  # the standard error of a median of normal samples, in interquartile ranges / sqrt(n)


@dataclass(frozen=True)
class Timing:
    """One measurement.

    Attributes:
        ms: Median milliseconds of one call.
        iqr_ms: Their interquartile range.
        ratio: Median of the ratios to the reference in the same round.
        ratio_iqr: Their interquartile range.
        reference_ms: Median milliseconds of the reference meanwhile.
        samples: Rounds that were counted.
        settled: Whether the ratio reached the precision asked for; else the machine was too noisy to.
    """

    ms: float
    iqr_ms: float
    ratio: float
    ratio_iqr: float
    reference_ms: float
    samples: int
    settled: bool

    @property
    def error(self) -> float:
        """Standard error of the ratio, relative to it."""
        return _PER_IQR * self.ratio_iqr / math.sqrt(self.samples) / self.ratio

    def to_json(self) -> dict[str, Any]:
        """As JSON data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> "Timing":
        """Read :meth:`to_json`'s form from a stranger.

        Raises:
            MeasurementError: Anything but positive finite milliseconds with a spread.
        """
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise MeasurementError(f"A measurement has the fields {', '.join(cls.__dataclass_fields__)}.")
        for name in ("ms", "iqr_ms", "ratio", "ratio_iqr", "reference_ms"):
            value = data[name]
            least = 0.0 if name.endswith("iqr") or name.startswith("iqr") else math.ulp(0.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
                raise MeasurementError(f"{name} of a measurement is {value!r}; it is a positive finite number.")
        if isinstance(data["samples"], bool) or not isinstance(data["samples"], int) or data["samples"] < 1:
            raise MeasurementError(f"samples of a measurement is {data['samples']!r}; it is at least 1.")
        if not isinstance(data["settled"], bool):
            raise MeasurementError("settled of a measurement is true or false.")
        return cls(**data)


def on_the_wall(run: Run, calls: int) -> float:
    """Seconds of so many calls by the machine's monotonic clock."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started


def interruptions() -> int:
    """How often the system has taken the processor from this thread; always 0 where it does not say."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


class Best:
    """What a reference takes at its best, by its last timings; a machine that became slower for good has a new best.

    Args:
        timings: How many of them.
    """

    def __init__(self, timings: int = 20) -> None:
        self._seen = deque[float](maxlen=timings)

    def ms(self, now: Sequence[float]) -> float:
        """Milliseconds of a call, where the groups of this timing took ``now``."""
        return float(np.percentile([*self._seen, np.percentile(now, 10)], 20))

    def learn(self, now: Sequence[float]) -> None:
        """Remember a timing."""
        self._seen.append(float(np.percentile(now, 10)))


def compare(
    run: Run,
    reference: Run,
    *,
    best: Best | None = None,
    clock: Clock = on_the_wall,
    precision: float = 0.01,
    sample_seconds: float = 0.001,
    warm_up: int = 5,
    least: int = 15,
    most: int = 150,
    attempts: int = 3,
) -> Timing:
    """Time a run in turn with a reference.

    Args:
        run: What is called, ready to run.
        reference: What it is called in turn with.
        best: What that takes at its best; None: nothing is known of it yet.
        clock: What takes the time; a device that works asynchronously has its own.
        precision: Relative standard error of the ratio at which to stop.
        sample_seconds: About as long one side of a round takes.
        warm_up: Calls of each before anything counts.
        least: Rounds to count.
        most: Rounds that count, after which it has to be enough; ``PATIENCE`` times as many are made for them.
        attempts: Fresh starts where the spread is wider than ``WIDE``; the steadiest counts.
    """
    tried: list[Timing] = []
    best = best or Best()
    for _ in range(attempts):
        for _ in range(warm_up):
            run()
            reference()
        calls, reference_calls = (_calls(r, clock, sample_seconds) for r in (run, reference))
        tried.append(_rounds(run, reference, best, clock, (calls, reference_calls), precision, least, most))
        if tried[-1].ratio_iqr <= WIDE * tried[-1].ratio:
            break
    return min(tried, key=lambda timing: (not timing.settled, timing.error))


def _calls(run: Run, clock: Clock, seconds: float) -> int:
    once = min(clock(run, 1) for _ in range(3))
    return max(1, math.ceil(seconds / max(once, 1e-7)))


def _rounds(
    run: Run, reference: Run, best: Best, clock: Clock, calls: tuple[int, int], precision: float, least: int, most: int
) -> Timing:
    clean, all_rounds = [], []
    for number in range(PATIENCE * most):
        before, order = interruptions(), (0, 1) if number % 2 else (1, 0)
        taken = {side: clock((run, reference)[side], calls[side]) / calls[side] * 1e3 for side in order}
        all_rounds.append((taken[0], taken[1]))
        if interruptions() == before:
            clean.append(all_rounds[-1])
            if len(clean) >= least and len(clean) % GROUP == 0:
                quiet = _quiet(clean, best)
                if len(quiet) >= most or (len(quiet) >= least and _summed_up(quiet, precision).settled):
                    break
    counted = clean if len(clean) >= least else all_rounds
    quiet = _quiet(counted, best)
    best.learn(_taken(counted))
    if len(quiet) >= least:
        return _summed_up(quiet, precision)
    return replace(_summed_up(counted, precision), settled=False)


def _quiet(rounds: list[tuple[float, float]], best: Best) -> list[tuple[float, float]]:
    """The rounds of those groups in which the reference was nearly at its best; a round's own time does not choose it."""
    groups = [rounds[first : first + GROUP] for first in range(0, len(rounds), GROUP)]
    limit = (1 + QUIET) * best.ms(_taken(rounds))
    return [one for group, ms in zip(groups, _taken(rounds), strict=True) if ms <= limit for one in group]


def _taken(rounds: list[tuple[float, float]]) -> list[float]:
    """What the reference took in each group of rounds."""
    return [float(np.median([ms for _, ms in rounds[first : first + GROUP]])) for first in range(0, len(rounds), GROUP)]


def _summed_up(rounds: list[tuple[float, float]], precision: float) -> Timing:
    ms, reference = np.array(rounds).T
    low, ratio, high = np.percentile(ms / reference, [25, 50, 75])
    first, median, third = np.percentile(ms, [25, 50, 75])
    return Timing(
        ms=float(median),
        iqr_ms=float(third - first),
        ratio=float(ratio),
        ratio_iqr=float(high - low),
        reference_ms=float(np.median(reference)),
        samples=len(rounds),
        settled=bool(_PER_IQR * (high - low) / math.sqrt(len(rounds)) <= precision * ratio),
    )
