"""Keeps what is timed on the same cores, as many as it has threads, so that no migration falls into a timing."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CAPACITIES = Path("/sys/devices/system/cpu")
"""Where Linux tells how fast cores are, on processors whose cores differ."""
THREADS = Path("/proc/self/task")


_pools: set[int] = set()
"""Threads that were started while others were bound: pools, which belong to the process and serve whatever is timed next."""


class Cores:
    """The cores that networks are timed on: always the same, the fastest ones where they differ.

    Everything else on the machine may move to other cores. Where the system cannot bind threads, nothing is bound.

    Args:
        threads: How many cores.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    @contextmanager
    def held(self) -> Iterator[None]:
        """Bind this thread and the pools that start meanwhile; all are let go at the end, and bound again next time."""
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set[int]()
        chosen = choose(allowed, self._threads)
        if chosen == allowed:
            yield
            return
        older = _threads()
        _bind({0, *_pools & older}, chosen)
        try:
            yield
        finally:
            now = _threads()  # numbers of threads that have ended may be other processes' by now
            _pools.intersection_update(now)
            _pools.update(thread for thread in now - older if _bound_to(thread) == chosen)
            _bind({0, *_pools}, allowed)


def choose(allowed: Iterable[int], threads: int) -> set[int]:
    """The fastest of some cores; of equally fast ones the last, as systems prefer the first for their own work."""
    return set(sorted(allowed, key=lambda core: (_capacity(core), core))[-threads:])


def _capacity(core: int) -> int:
    try:
        return int((CAPACITIES / f"cpu{core}" / "cpu_capacity").read_text())
    except (OSError, ValueError):
        return 0


def _threads() -> set[int]:
    return {int(entry.name) for entry in THREADS.iterdir()}


def _bound_to(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except OSError:  # it has ended
        return set()


def _bind(threads: Iterable[int], cores: Iterable[int]) -> None:
    for thread in threads:
        try:
            os.sched_setaffinity(thread, cores)
        except OSError:  # it has ended, or the cores were taken from this process meanwhile
            continue
