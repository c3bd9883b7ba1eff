"""New timings of a leader: what decides whether it is within a budget, and goes on record with the trial that comes of it.

One timing that happens to be short would let a network pass that is a little too slow, and of many leaders the luckiest
would be taken. So where the first is not clearly on one side of the budget, the median of three counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_prune.latency.gauge import Gauge
from automl_prune.latency.timing import Timing
from automl_prune.problem import Budget
from automl_prune.space import Candidate

TIMINGS = 3
"""Of a candidate, where one does not do."""
SURE, LEAST_ERROR = 4.0, 0.01
"""Standard errors from a budget at which one timing does; and how small one is taken to be, as machines drift meanwhile."""
_OF_THREE = 0.67  # the standard error of a median of three normal samples, in standard deviations


@dataclass(frozen=True)
class Fresh:
    """What a candidate takes by new timings.

    Attributes:
        timing: The one whose ratio is the median.
        error: Standard error of that ratio, relative to it.
        timings: How many there were.
        full_ms: Milliseconds of the full network, which the ratio is taken to.
    """

    timing: Timing
    error: float
    timings: int
    full_ms: float

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return self.timing.ratio * self.full_ms

    def to_json(self) -> dict[str, Any]:
        """As JSON data; :meth:`from_json` reads it back."""
        about = {"error": self.error, "timings": self.timings, "full_ms": self.full_ms}
        return {"timing": self.timing.to_json(), **about}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Fresh":
        """Read :meth:`to_json`'s form."""
        return cls(Timing.from_json(data["timing"]), data["error"], data["timings"], data["full_ms"])


def time_afresh(gauge: Gauge, candidate: Candidate, budget: Budget, full_ms: float) -> Fresh:
    """New timings of a candidate, as many as it takes to tell on which side of a budget it is; if any settle, those count.

    Raises:
        MeasurementError, DeviceError: As the device says.
    """
    found = [gauge.afresh(candidate)]
    if not (found[0].settled and is_clear(found[0].ratio * full_ms, found[0].error, budget)):
        found += [gauge.afresh(candidate) for _ in range(TIMINGS - 1)]
    found = [timing for timing in found if timing.settled] or found
    middle = sorted(found, key=lambda timing: timing.ratio)[len(found) // 2]
    if len(found) == 1:
        return Fresh(middle, middle.error, 1, full_ms)
    spread = float(np.std([timing.ratio for timing in found], ddof=1)) / middle.ratio
    return Fresh(middle, _OF_THREE * max(spread, middle.error), len(found), full_ms)


def is_clear(ms: float, error: float, budget: Budget) -> bool:
    """Whether a time is that far from both bounds that another timing would not change anything."""
    margin = SURE * max(error, LEAST_ERROR) * ms
    return all(abs(ms - bound) > margin for bound in (budget.min, budget.max) if 0 < bound < math.inf)
