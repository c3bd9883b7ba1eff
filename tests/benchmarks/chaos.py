"""Kills parts of a running service at random moments, for a while, and says how soon the search went on after each.

    python tests/benchmarks/chaos.py --minutes 20 --seed 1

A service with a local Ray runs one search after the other. Every few seconds one of its processes gets SIGKILL: the API
with its launcher's parent, the launcher, the driver, a Ray worker, the raylet, or Ray's head. Recovery is the time until
another trial was recorded. At the end of every search its asks and outcomes must be those of an undisturbed one, and nothing
may have been evaluated twice.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from services.settings import load_settings
from services.wiring import open_store
from tests.services.chaos import KINDS, ORDER, SMALL, Chaos, Service, check, undisturbed


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--every", type=float, default=8, help="seconds between a recovery and the next kill, on average")
    options.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        run(Path(folder), given)


def run(home: Path, given: argparse.Namespace) -> None:
    settings = load_settings(home=home, workers=1)  # each recovery is waited for: no search loses three drivers in a row
    store, service, recoveries = open_store(settings), Service(settings), dict[str, list[float]]()
    try:
        expected, small = (undisturbed(service, store, order) for order in (ORDER, SMALL))
        chaos = Chaos(service, store, random.Random(given.seed), given.kinds, given.every)
        give_up = time.monotonic() + 60 * given.minutes
        searches = killed = 0
        while time.monotonic() < give_up:
            search_id = service.order(ORDER)
            for kill in chaos.disturb(search_id, give_up - time.monotonic()):
                killed += 1
                if kill.recovery is not None:
                    recoveries.setdefault(kill.kind, []).append(kill.recovery)
                    print(f"{kill.kind}: {kill.recovery:.1f} s", file=sys.stderr, flush=True)
            check(store, search_id, expected, killed)
            searches += 1
        chaos.check_accepted(small, killed)
    finally:
        service.stop()
    print(f"{searches} searches ended as the undisturbed one\n| killed | times | s until the next trial, median | most |")
    print("|---|--:|--:|--:|")
    for kind, seconds in recoveries.items():
        print(f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |")


if __name__ == "__main__":
    main()
