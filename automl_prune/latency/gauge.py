"""Measures candidates of one network on one device, and keeps what was measured."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import Device, StopCheck, never_stopped
from automl_prune.latency.runtimes.base import check_runs
from automl_prune.latency.sampling import network_sample
from automl_prune.latency.times import MOST_TRIES, Times
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.space import Candidate, ChannelSpace

FloatArray = npt.NDArray[np.float64]
OnProgress = Callable[[int, int], None]

AT_ONCE = 100
"""Measurements after which is looked again for what others have measured meanwhile."""
AGAIN_SECONDS = 5.0
"""Until the second try at a timing that did not settle, twice as long until the third: what disturbs a machine may pass."""
CHECK_SECONDS = 0.5
"""Between two looks, meanwhile, at whether it is to go on."""


class Gauge:
    """Times candidates of one network on one device, each once.

    Args:
        device: Where.
        conditions: How.
        network: The full network, as work.
        space: What the candidates are of.
        folder: Where what was timed is kept.
        check: Called before a new timing and while that is waited for; the device has its own for what it times.

    Raises:
        DeviceError: The device is not heard of, or cannot run networks under the conditions.
    """

    def __init__(
        self,
        device: Device,
        conditions: Conditions,
        network: NetworkWork,
        space: ChannelSpace,
        folder: Path,
        *,
        check: StopCheck = never_stopped,
    ) -> None:
        self.device, self.conditions, self.space, self._check = device, conditions, space, check
        self.description = device.describe()
        check_runs(self.description, conditions, device.name)
        self.network = network.full
        self.times = Times.of(folder, self.description, conditions)

    def work(self, candidate: Candidate) -> NetworkWork:
        """The candidate as work."""
        full = self.space.full.widths
        widths = zip(self.space.names, candidate.widths, full, strict=True)
        changed = tuple(sorted((name, width) for name, width, whole in widths if width != whole))
        return NetworkWork(self.network.network, self.network.num_classes, self.network.architecture, changed)

    def time(self, works: Sequence[Work], progress: OnProgress = lambda done, of: None) -> list[Timing]:
        """Timings of all, in their order; what is known is not timed again, unless it did not settle.

        What several searches want at once is timed by the first that comes to it: each begins somewhere else, and looks
        now and then at what the others brought.
        """
        while missing := self.times.missing(works):
            start = random.randrange(len(missing))
            turned = [*missing[start:], *missing[:start]]
            for first in range(0, len(turned), AT_ONCE):
                self._time(self.times.missing(turned[first : first + AT_ONCE]), first, len(turned), progress)
        return [self.times[work] for work in works]

    def afresh(self, candidate: Candidate) -> Timing:
        """A new timing of a candidate, whatever is known of it; where none of a few settles, the steadiest of them."""
        found: list[Timing] = []

        def done(work: Work, timing: Timing) -> None:
            self.times.add(work, timing)
            found.append(timing)

        while len(found) < MOST_TRIES and not any(timing.settled for timing in found):
            self._wait(AGAIN_SECONDS * len(found))
            self.device.time([self.work(candidate)], self.conditions, done)
        return found[-1] if found[-1].settled else min(found, key=lambda timing: timing.error)

    def _wait(self, seconds: float) -> None:
        self._check()
        while seconds > 0:
            time.sleep(min(seconds, CHECK_SECONDS))
            seconds -= CHECK_SECONDS
            self._check()

    def _time(self, works: Sequence[Work], before: int, of: int, progress: OnProgress) -> None:
        left = iter(range(before + 1, of + 1))

        def done(work: Work, timing: Timing) -> None:
            self.times.add(work, timing)
            progress(next(left), of)

        if works:
            self.device.time(works, self.conditions, done)

    @property
    def full_ms(self) -> float:
        """Milliseconds of the full network: the median of what it took while each network of the sample was timed."""
        sample = [self.network, *map(self.work, network_sample(self.space))]
        return float(np.median([timing.reference_ms for timing in self.time(sample)]))

    def measure(self, candidates: Sequence[Candidate]) -> FloatArray:
        """Milliseconds of candidates, ``[candidates]``: each one's ratio to the full network, times what that takes."""
        ratios = [timing.ratio for timing in self.time([self.work(c) for c in candidates])]
        return np.array(ratios) * self.full_ms

    def is_known(self, candidate: Candidate) -> bool:
        """Whether a candidate can be told of without asking the device."""
        return not self.times.missing([self.work(candidate)])
