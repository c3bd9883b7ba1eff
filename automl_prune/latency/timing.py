"""Milliseconds that can be trusted: each run is timed in turn with a reference, so that drift of the machine cancels.

A sample is one round of both: as many calls of one and then of the other as take about a millisecond, the order changing
every round. Rounds in which the system took the processor away are left out. Each round gives a ratio; the median of the
ratios, times what the reference takes on a quiet machine, is what a noisy one tells about the milliseconds there.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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


def compare(
    run: Run,
    reference: Run,
    *,
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
        clock: What takes the time; a device that works asynchronously has its own.
        precision: Relative standard error of the ratio at which to stop.
        sample_seconds: About as long one side of a round takes.
        warm_up: Calls of each before anything counts.
        least: Rounds to count.
        most: Rounds after which it has to be enough.
        attempts: Fresh starts where the spread is wider than ``WIDE``; the steadiest counts.
    """
    tried: list[Timing] = []
    for _ in range(attempts):
        for _ in range(warm_up):
            run()
            reference()
        calls, reference_calls = (_calls(r, clock, sample_seconds) for r in (run, reference))
        tried.append(_rounds(run, reference, clock, (calls, reference_calls), precision, least, most))
        if tried[-1].ratio_iqr <= WIDE * tried[-1].ratio:
            break
    return min(tried, key=lambda timing: timing.error)


def _calls(run: Run, clock: Clock, seconds: float) -> int:
    once = min(clock(run, 1) for _ in range(3))
    return max(1, math.ceil(seconds / max(once, 1e-7)))


def _rounds(
    run: Run, reference: Run, clock: Clock, calls: tuple[int, int], precision: float, least: int, most: int
) -> Timing:
    clean, all_rounds = [], []
    for number in range(most):
        before, order = interruptions(), (0, 1) if number % 2 else (1, 0)
        taken = {side: clock((run, reference)[side], calls[side]) / calls[side] * 1e3 for side in order}
        all_rounds.append((taken[0], taken[1]))
        if interruptions() == before:
            clean.append(all_rounds[-1])
            if len(clean) >= least and len(clean) % 5 == 0:
                timing = _summed_up(clean, precision)
                if timing.settled:
                    return timing
    return _summed_up(clean if len(clean) >= least else all_rounds, precision)


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
