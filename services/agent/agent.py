"""The loop of an agent: register, claim, time, report; through outages of the service, for as long as it is let."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from automl_prune.errors import AnotherAgentError, AutomlPruneError
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.stopwatch import Stopwatches
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work, work_from_json
from automl_prune.messages import said
from services.agent.link import Link
from services.cli.client import FaultError, RefusedError, UnreachableError
from services.cli.text import Json

log = logging.getLogger("automl_prune.agent")

T = TypeVar("T")

AT_ONCE = 4
"""Measurements of one claim: few, as all of them are handed out again when the agent is lost."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds before a service that is away is asked again."""
MOST_FAULTS = 8
"""How often a report is sent at which the service fails, while it answers all else: for about a minute."""

TimeIt = Callable[[Conditions, Work], Timing]


class Agent:
    """Times what a service asks of this machine.

    Args:
        link: To the service.
        name: What the device is called there.
        time_it: What times; a Stopwatch for each set of conditions.
    """

    def __init__(self, link: Link, name: str, time_it: TimeIt | None = None) -> None:
        self._link, self._name = link, name
        self._time_it = time_it or Stopwatches().time
        self._lease, self._wait = 30.0, 5.0
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self) -> NoReturn:
        """Work until the process is told to end.

        Raises:
            RefusedError: The service does not want this agent, or another one speaks for the device now.
        """
        self._patiently(self._register)
        with self._renewing():
            while True:
                for item in self._patiently(self._claim):
                    self._do(item)

    def _register(self) -> None:
        description = describe_this_machine()
        made = self._link.register(self._name, description)
        self._lease, self._wait = float(made["lease_seconds"]), float(made["longest_wait_seconds"])
        runtimes = ", ".join(f"{name} {version}" for name, version in sorted(description.runtimes.items()))
        log.info("%s is registered at %s: %s", self._name, self._link.server, runtimes or "without any runtime")

    def _claim(self) -> list[Json]:
        try:
            items = self._link.claim(self._name, AT_ONCE, self._wait)
        except RefusedError as error:
            if error.status != 404:
                raise
            log.warning("the service does not know %s any more; registering again", self._name)
            self._register()
            return []
        with self._lock:
            self._held = {str(item["id"]): int(item["attempt"]) for item in items}
        return items

    def _do(self, item: Json) -> None:
        """Time one piece of work and report it, unless it is not wanted any more."""
        if not self._holds(item):
            log.info("%s is not wanted any more", item["id"])
            return
        try:
            self._report(item, self._timed(item))
        finally:
            with self._lock:
                self._held.pop(str(item["id"]), None)

    def _report(self, item: Json, found: Mapping[str, Any]) -> None:
        """Bring what was found; a timing that the service does not take, or fails at, is brought as an error instead."""
        outcome = {"attempt": item["attempt"], "conditions": item["conditions"], **found}
        try:
            self._patiently(lambda: self._link.report(self._name, str(item["id"]), outcome), most_faults=MOST_FAULTS)
        except RefusedError as error:
            if error.status not in (404, 409, 422) or error.code == AnotherAgentError.code:
                raise
            log.warning("%s was not taken: %s", item["id"], error)
            if error.status == 422 and "timing" in found:
                faults = [f"{fault.pointer} {fault.detail}".strip() for fault in error.errors] or [str(error)]
                self._report(item, {"error": f"What was measured was refused: {' '.join(faults)}"[:1000]})
        except FaultError as error:
            log.warning("%s was not taken: %s", item["id"], error)
            if "timing" in found:
                self._report(item, {"error": f"The service failed at what was measured: {error}"[:1000]})

    def _timed(self, item: Json) -> dict[str, Any]:
        """The timing, or why there is none."""
        try:
            timing = self._time_it(Conditions.from_json(item["conditions"]), work_from_json(item["work"]))
            type(timing).from_json(timing.to_json())  # what is no number cannot even be sent
        except AutomlPruneError as error:
            log.warning("%s cannot be timed: %s", item["id"], error)
            return {"error": str(error)[:1000] or type(error).__name__}
        except Exception as error:  # whatever work that only this machine cannot take comes to; the agent goes on
            log.exception("%s cannot be timed", item["id"])
            return {"error": said(error)}
        log.info("%s took %.4g ms", item["id"], timing.ms)
        return {"timing": timing.to_json()}

    def _holds(self, item: Json) -> bool:
        with self._lock:
            return str(item["id"]) in self._held

    def _patiently(self, call: Callable[[], T], *, most_faults: float = float("inf")) -> T:
        """Make a call until the service answers it; raises FaultError once it has failed at it so often."""
        pause, away, faults = FIRST_PAUSE, False, 0
        while True:
            try:
                answer = call()
            except UnreachableError as error:
                faults += isinstance(error, FaultError)
                if faults >= most_faults:
                    raise
                if not away:
                    log.warning("%s Trying again until it answers.", error)
                away = True
                time.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if away:
                    log.info("%s answers again", self._link.server)
                return answer

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew what is held, from a thread: one measurement may take longer than a lease."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._lease / 3):
                try:
                    self._renew()
                except Exception as error:  # the lease may run out; what is reported then may still be taken
                    log.warning("leases could not be renewed: %s", error)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(5)  # a thread that lives on while the interpreter shuts down may abort the process

    def _renew(self) -> None:
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        lost = self._link.renew(self._name, held)
        with self._lock:
            for one in lost:
                if self._held.get(one) == held.get(one):
                    self._held.pop(one, None)
