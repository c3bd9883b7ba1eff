"""Sends what webhooks wait for, from the outbox that event streams read too: at least once, and again when it fails.

Each webhook has one delivery on its way at a time, the oldest that is due; tenants share the slots evenly.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import httpcore

from automl_prune.storage.webhooks import Delivery, Webhooks
from services.news import told
from services.outages import Outages
from services.settings import Settings
from services.webhooks import guard, signing
from services.webhooks.exempt import of_tenant

log = logging.getLogger("automl_prune.webhooks")

IDLE_SECONDS = 1.0
SLOTS = 8
"""Deliveries on their way at once."""
SLOTS_OF_TENANT = SLOTS // 2
"""Of one tenant, so that another one's news need not wait for its receivers, however slow they are."""


class Sender:
    """One sender; several, on several machines, share the work.

    Args:
        webhooks: What is to be sent, and where.
        settings: Which hosts may be private.
    """

    def __init__(self, webhooks: Webhooks, settings: Settings) -> None:
        self._webhooks, self._hosts = webhooks, settings.webhook_hosts
        self._sending: dict[Future[None], str] = {}  # and whose it is

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
        look_at = time.monotonic()
        with ThreadPoolExecutor(SLOTS, "webhook") as pool:
            while not stop.is_set():
                try:
                    if time.monotonic() >= look_at:
                        look_at = time.monotonic() + IDLE_SECONDS
                        self._webhooks.spread()
                    busy = self.step(pool)
                    outages.answered()
                except Exception as error:
                    outages.failed(error)
                    busy = False
                if not busy:
                    stop.wait(IDLE_SECONDS)

    def step(self, pool: ThreadPoolExecutor) -> bool:
        """Begin to send what is due in the slots that are free, and wait a while for one; returns whether any was in use."""
        due = self._webhooks.claim(SLOTS - len(self._sending), Counter(self._sending.values()), SLOTS_OF_TENANT)
        self._sending |= {pool.submit(self._deliver, delivery): delivery.event.tenant for delivery in due}
        ended = wait(self._sending, IDLE_SECONDS, FIRST_COMPLETED).done
        busy = bool(self._sending)
        for sent in ended:
            del self._sending[sent]
        for sent in ended:
            sent.result()
        return busy

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
            exempt = of_tenant(self._hosts, delivery.event.tenant)
            status = guard.post(delivery.url, body, headers, exempt)
        except guard.RefusedAddressError as error:
            return None, str(error)
        except (OSError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ValueError) as error:
            return None, f"{type(error).__name__}: {str(error)[:200]}"
        if 200 <= status < 300:
            return status, None
        return status, f"It answered {status}{'; redirects are not followed' if 300 <= status < 400 else ''}."
