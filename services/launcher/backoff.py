"""How long a launcher waits after starts that came to nothing, so that what is broken here does not use up the queue."""

import time
from collections.abc import Callable

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0


class Backoff:
    """A second after the first such start, then twice as long each time, until one comes to something.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause, self._until, self._why = 0.0, float("-inf"), ""

    @property
    def over(self) -> bool:
        """Whether something may be started."""
        return self._clock() >= self._until

    @property
    def trouble(self) -> str | None:
        """Why nothing may be started now, if that is so."""
        return None if self.over else f"{self._why}; trying again after {self._pause:.0f} s"

    def failed(self, why: str) -> None:
        """A start came to nothing; several that do so at the same time count once."""
        self._why = why
        if self.over:
            self._pause = min(2 * self._pause or FIRST_SECONDS, LONGEST_SECONDS)
            self._until = self._clock() + self._pause

    def worked(self) -> None:
        """One came to something."""
        self._pause, self._until = 0.0, float("-inf")
