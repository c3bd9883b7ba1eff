"""Sends what webhooks wait for, from the outbox that event streams read too: at least once, and again when it fails."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpcore

from automl_prune.storage.webhooks import Delivery, Webhooks
from services.news import told
from services.outages import Outages
from services.settings import Settings
from services.webhooks import guard, signing

log = logging.getLogger("automl_prune.webhooks")

IDLE_SECONDS = 1.0
_AT_ONCE = 4


class Sender:
    """One sender; several, on several machines, share the work.

    Args:
        webhooks: What is to be sent, and where.
        settings: Which hosts may be private.
    """

    def __init__(self, webhooks: Webhooks, settings: Settings) -> None:
        self._webhooks, self._exempt = webhooks, settings.webhook_hosts

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send in a thread of its own, for as long as the block lasts."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(stop,), name="webhooks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(guard.SECONDS + 1)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        outages = Outages(log, "the database of the webhooks")
        with ThreadPoolExecutor(_AT_ONCE, "webhook") as pool:
            while not stop.is_set():
                try:
                    busy = self.step(pool)
                    outages.answered()
                except Exception as error:
                    outages.failed(error)
                    busy = False
                if not busy:
                    stop.wait(IDLE_SECONDS)

    def step(self, pool: ThreadPoolExecutor) -> bool:
        """Send what is due; returns whether there was anything."""
        spread = self._webhooks.spread()
        due = self._webhooks.claim(_AT_ONCE)
        list(pool.map(self._deliver, due))
        return bool(spread or due)

    def _deliver(self, delivery: Delivery) -> None:
        status, error = self._sent(delivery)
        about = {
            "webhook_id": delivery.webhook_id,
            "search_id": delivery.event.search_id,
            "event_id": delivery.event.id,
            "attempt": delivery.attempt,
            "status": status,
            "error": error,
        }
        log.log(logging.INFO if error is None else logging.WARNING, "webhook", extra=about)
        self._webhooks.settle(delivery, status, error)

    def _sent(self, delivery: Delivery) -> tuple[int | None, str | None]:
        """The status that came back, and what went wrong, if it did; never what the other side said."""
        body = json.dumps(told(delivery.event), separators=(",", ":")).encode()
        signed = signing.headers(delivery.secret, f"dlv_{delivery.id}", int(time.time()), body)
        headers = {"Content-Type": "application/json", "User-Agent": "automl-prune-webhooks/1", **signed}
        try:
            status = guard.post(delivery.url, body, headers, self._exempt)
        except guard.RefusedAddressError as error:
            return None, str(error)
        except (OSError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ValueError) as error:
            return None, f"{type(error).__name__}: {str(error)[:200]}"
        if 200 <= status < 300:
            return status, None
        return status, f"It answered {status}{'; redirects are not followed' if 300 <= status < 400 else ''}."
