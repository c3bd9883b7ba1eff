"""Agents that wait for work: one claim per device, looked after in a few threads of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

AT_ONCE = 4
"""Looks for work at the same moment, so that agents that wait leave the other threads to everybody else."""


class WaitingClaims:
    """The claims that wait. A newer one takes its device's place, as the one before has lost its connection, or its agent.

    Attributes:
        threads: Where is looked for their work.
    """

    def __init__(self) -> None:
        self.threads = CapacityLimiter(AT_ONCE)
        self._newest: dict[tuple[str, str], object] = {}

    @contextmanager
    def place(self, tenant: str, device: str) -> Iterator[Callable[[], bool]]:
        """Wait for a device's work in the block; what it gets tells whether this still is the device's newest claim."""
        mine = self._newest[tenant, device] = object()
        try:
            yield lambda: self._newest.get((tenant, device)) is mine
        finally:
            if self._newest.get((tenant, device)) is mine:
                del self._newest[tenant, device]
