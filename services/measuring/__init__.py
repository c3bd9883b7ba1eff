"""Agents and drivers measure in a process of its own: one that hangs or crashes costs what it was at, and no more.

The process reads what to measure from its stdin, and answers on its stdout, in lines of JSON.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from automl_prune.errors import MeasurementError
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import StopCheck, never_stopped
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work, work_to_json
from services.answers import Clock, how_it_ended, messages
from services.settings import PREFIX, Settings, environment

STARTING_SECONDS = 300.0
"""How long the process may take until it is ready: small boards are slow to import."""


class Measuring:
    """Times work in a process that is started when it is needed, and again after it has hung or crashed.

    Args:
        settings: What the process is told, and after how long a measurement is stopped.
        whose: Settings these are, for the message of one that was stopped.
        check: Called while the process is waited for; what it raises ends that, and the process.
    """

    def __init__(self, settings: Settings, *, whose: str = "agent", check: StopCheck = never_stopped) -> None:
        self._settings, self._clock = settings, Clock(0)
        self._whose, self._check = whose, check
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: Iterator[Mapping[str, Any]] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def time(self, conditions: Conditions, work: Work, *, lock: Path | None = None) -> Timing:
        """One measurement, once nobody else holds the file that processes take turns by.

        Raises:
            MeasurementError: It took too long, or its process ended, or it says why it cannot be.
        """
        what = {"conditions": conditions.to_json(), "work": work_to_json(work)}
        answer = self._ask(what | {"lock": None if lock is None else str(lock)})
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return Timing.from_json(answer["timing"])

    def close(self) -> None:
        """End the process, and all that it started."""
        child, self._child = self._child, None
        if child is not None:
            with child, suppress(ProcessLookupError):
                # It has not been waited for, so that its number cannot be another's by now.
                os.killpg(child.pid, signal.SIGKILL)

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        answered = False
        try:
            child = self._child or self._start()
            assert child.stdin is not None
            self._clock.set(self._settings.measurement_seconds)
            with suppress(BrokenPipeError):  # it has ended: there is no answer either
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            self._next()
            self._clock.set(math.inf)  # however long those take whose turn it is
            self._next()
            self._clock.set(self._settings.measurement_seconds)
            answer = self._next()
            answered = True
        except TimeoutError:
            limit, setting = self._settings.measurement_seconds, f"{self._whose}'s {PREFIX}MEASUREMENT_SECONDS"
            raise MeasurementError(f"It took longer than {limit:g} s and was stopped; the {setting} allows more.") from None
        finally:
            if not answered:
                self.close()
        return answer

    def _next(self) -> Mapping[str, Any]:
        if (answer := next(self._answers, None)) is None:
            assert self._child is not None
            raise MeasurementError(f"The process that measures {how_it_ended(self._child)}.")
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        others = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        self._child = child = subprocess.Popen(
            [sys.executable, "-m", "services.measuring"],
            env=others | environment(self._settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._clock.set(STARTING_SECONDS)
        self._answers = messages(child, self._clock, check=self._check)
        try:
            self._next()
        except TimeoutError:
            raise MeasurementError(f"The process that measures was not ready after {STARTING_SECONDS:g} s.") from None
        return child
