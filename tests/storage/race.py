"""Several processes on one database at the same moment: ``python race.py (work|order_and_die) URL PROCESSES``.

Prints one JSON line per process. The processes are forked, for starting Python anew takes longer than the race.
"""

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.synchronize import Barrier

from automl_prune.loop.job import SearchState
from automl_prune.space import Candidate
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, Trial, TrialState


def work(url: str, start: Barrier) -> None:
    """Claim and finish searches until there are none; tells which."""
    start.wait(60)
    store, taken = SqlStore(url), []
    while (job := store.claim(lease_seconds=60)) is not None:
        taken.append(job.id)
        store.record_ask(job.id, job.attempt, Trial(0, Candidate((1, 2))))
        store.record_start(job.id, job.attempt, 0)
        store.record_outcome(job.id, job.attempt, 0, Outcome(TrialState.COMPLETE, {"top1": 0.5}))
        store.save_snapshot(job.id, job.attempt, {"seq": 2})
        store.set_state(job.id, job.attempt, SearchState.SUCCEEDED)
    store.close()
    say(taken)


def order_and_die(url: str, start: Barrier) -> None:
    """Make or upgrade the database, order a search, tell its id, and be killed."""
    start.wait(60)
    say([SqlStore.open(url, upgrade=True).add_search({}, name="last words", labels={}).id])
    os.kill(os.getpid(), signal.SIGKILL)


def say(ids: list[str]) -> None:
    """Write one line at once, so that lines of several processes do not mix."""
    os.write(sys.stdout.fileno(), (json.dumps(ids) + "\n").encode())


if __name__ == "__main__":
    target, url, count = {"work": work, "order_and_die": order_and_die}[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    context = multiprocessing.get_context("fork")
    start = context.Barrier(count)
    racers = [context.Process(target=target, args=(url, start)) for _ in range(count)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    sys.exit(0 if {racer.exitcode for racer in racers} == {-signal.SIGKILL if target is order_and_die else 0} else 1)
