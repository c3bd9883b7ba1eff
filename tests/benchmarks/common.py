"""What every benchmark prints first: the machine and the versions, for figures mean nothing without them."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch


def header(title: str) -> None:
    """Print the title, hardware and versions; pin torch to one thread."""
    torch.set_num_threads(1)
    print(f"# {title}")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}, 1 thread")


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of an action, after one run to warm up."""
    action()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return statistics.median(taken)
