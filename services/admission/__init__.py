"""Networks are admitted in processes of their own: one that hangs, crashes or eats all memory hurts nothing but its order.

The process answers on its stdout, in lines of JSON: what it is doing, then what it found or why it found nothing.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from automl_prune.architecture import Architecture
from automl_prune.errors import TraceError, UserError
from automl_prune.loop.admission import POINTER, cached
from automl_prune.loop.job import DEFAULT_TENANT
from automl_prune.networks import NetworkDefinition
from services.answers import Clock, how_it_ended, messages
from services.settings import PREFIX, Settings, environment

log = logging.getLogger("automl_prune.admission")

AT_ONCE = 2
"""Networks that are admitted at the same time."""
MOST_WAITING = 8
"""Orders that may wait for an admission."""
MOST_OF_TENANT = 4
"""Of these, one tenant's; they share the admissions of …"""
NETWORKS_OF_TENANT = 2
"""… so many networks, so that nobody else's order finds all turns taken for long."""
STARTING_SECONDS = 60.0
"""How long a child may take, beyond the limit, until it begins to build."""
_KINDS = {kind.code: kind for kind in (UserError, TraceError)}

_Key = tuple[str, int]
"""A network's name and its number of classes."""


class BusyError(Exception):
    """Too many orders wait for an admission."""


class Admissions:
    """Admits networks, each in a child process, a few at once, and of them few of one tenant. Thread-safe.

    Orders for the same network share one admission, whosever they are.

    Args:
        settings: The cache folder, the time limit, and what the child is told.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._running: dict[_Key, Future[Architecture]] = {}
        self._seats: Counter[tuple[str, _Key]] = Counter()

    def __call__(
        self, network: NetworkDefinition, num_classes: int, cache: Path, *, tenant: str = DEFAULT_TENANT
    ) -> Architecture:
        """The network's verified architecture.

        Raises:
            UserError: It cannot be admitted, or not within the time limit; says why.
            BusyError: Too many wait already, of all or of this tenant.
        """
        if (found := self.known(network, num_classes, cache)) is not None:
            return found
        key = (network.name, num_classes)
        with self._seat(tenant, key):
            return self._shared(key)

    @property
    def waiting(self) -> int:
        """Orders that wait for an admission."""
        return self._seats.total()

    def known(self, network: NetworkDefinition, num_classes: int, cache: Path) -> Architecture | None:
        """What is known of a network without admitting it."""
        return cached(network, num_classes, cache, seconds=verification_seconds(self._settings))

    @contextmanager
    def _seat(self, tenant: str, key: _Key) -> Iterator[None]:
        with self._lock:
            self._check_room(tenant, key)
            self._seats[tenant, key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._seats[tenant, key] -= 1
                self._seats += Counter()  # forgets who has none any more

    def _check_room(self, tenant: str, key: _Key) -> None:
        if self.waiting >= MOST_WAITING:
            raise BusyError("Too many networks are being admitted at once; try again.")
        own = {network: orders for (whose, network), orders in self._seats.items() if whose == tenant}
        if sum(own.values()) >= MOST_OF_TENANT or (key not in own and len(own) >= NETWORKS_OF_TENANT):
            raise BusyError("Too many of the networks that you ordered are being admitted at once; try again.")

    def _shared(self, key: _Key) -> Architecture:
        with self._lock:
            first = key not in self._running
            future = self._running.setdefault(key, Future())
        if first:
            try:
                with self._turns:
                    future.set_result(admit_in_child(*key, self._settings))
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self._lock:
                    del self._running[key]
        return future.result()


def verification_seconds(settings: Settings) -> float:
    """The part of the time limit after which verification freezes what it has not proven."""
    return 0.4 * settings.admission_seconds


def admit_in_child(name: str, num_classes: int, settings: Settings) -> Architecture:
    """Admit a registered network in a process of its own, which ends with this call, and all that it started, too.

    Raises:
        UserError: What the child says, or that it crashed, or took longer than ``admission_seconds``.
    """
    others = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    child = subprocess.Popen(
        [sys.executable, "-m", "services.admission", name, str(num_classes)],
        env=others | environment(settings),
        stdin=subprocess.PIPE,  # never written to: it closes when this process is gone
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with child:
        try:
            return _result(name, child, settings.admission_seconds)
        finally:
            # The child has not been waited for, so that its number cannot be another's by now.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _result(name: str, child: subprocess.Popen[bytes], seconds: float) -> Architecture:
    now, clock = "starting", Clock(STARTING_SECONDS + seconds)
    try:
        for message in messages(child, clock):
            if "architecture" in message:
                return Architecture.from_json(message["architecture"])
            if "error" in message:
                raise _KINDS.get(message["error"], UserError)(message["message"], pointer=message["pointer"])
            if now == "starting":  # a busy machine's slowness to get going is not the network's fault
                clock.set(seconds)
            now = message["stage"]
    except TimeoutError:
        raise UserError(
            f"Admitting {name!r} took longer than {seconds:g} s and was stopped while {now} it; a network that needs more "
            f"time gets it with AUTOML_PRUNE_ADMISSION_SECONDS.",
            pointer=POINTER,
        ) from None
    raise UserError(f"{name!r} cannot be searched: {now} it, the process {how_it_ended(child)}.", pointer=POINTER)
