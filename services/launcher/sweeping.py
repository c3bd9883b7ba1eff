"""Forgetting old events now and then, beside the launcher's work."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from automl_prune.storage.retention import Retention

log = logging.getLogger("automl_prune.launcher")

EVERY_SECONDS = 3600.0


@contextmanager
def sweeping(retention: Retention, *, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Prune now and every hour, in a thread of its own, for as long as the block lasts."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                if deleted := retention.prune():
                    log.info("forgot %d old events", deleted)
            except Exception as error:
                log.warning("old events could not be forgotten (%s); trying again later", type(error).__name__)
            over.wait(every)

    thread = threading.Thread(target=work, name="sweeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)
