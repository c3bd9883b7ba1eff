"""What every store of devices agrees on: limits, checks, and how a refusal is worded."""

import math
import re
from statistics import median

from automl_prune.errors import (
    AnotherAgentError,
    LateOutcomeError,
    MeasurementError,
    NotFoundError,
    StateConflictError,
    UserError,
)
from automl_prune.latency.conditions import Conditions, DeviceDescription, check_unchanged
from automl_prune.latency.devices import LOCAL
from automl_prune.latency.registered import MeasurementState
from automl_prune.latency.timing import Timing

MOST_DEVICES = 100
"""Of one tenant."""
MOST_ATTEMPTS = 5
"""How often a measurement is handed out before it fails."""
KEPT_DAYS = 7
"""How long measurements stay that nobody wants any more."""
NOISES = 101
"""Measurements that a device's noise is the median of."""

NAME = r"[A-Za-z0-9_-]{1,64}"
REDESCRIBED = "The device was registered anew as another machine, or with other versions of its runtimes."
CANCELLED = "Nobody waits for it any more."

_LONGEST_ERROR = 1000


def check_name(name: str) -> None:
    """Raise UserError for what cannot be a device's name, StateConflictError for the one that is taken."""
    if not re.fullmatch(NAME, name):
        raise UserError("A device's name has 1 to 64 letters, digits, _ and -.", pointer="/name")
    if name == LOCAL:
        raise StateConflictError(f"{LOCAL!r} is the machine that drives searches; call the device something else.")


def check_epoch(name: str, current: str | None, epoch: str) -> None:
    """Raise AnotherAgentError unless this is the epoch of the agent that registered last."""
    if epoch != current:
        raise AnotherAgentError(
            f"Another agent speaks for {name!r} now: it registered under this name later. Give every device its own name."
        )


def check_number(known: int) -> None:
    """Raise StateConflictError when there are as many devices as there may be."""
    if known >= MOST_DEVICES:
        raise StateConflictError(f"There are {MOST_DEVICES} devices, the most there can be.")


def check_description(name: str, conditions: Conditions, expected: DeviceDescription | None, now: DeviceDescription) -> None:
    """Raise DeviceChangedError unless a device still is what its measurements are to be kept for."""
    if expected is not None:
        check_unchanged(name, conditions, expected, now)


def check_outcome(ordered: Conditions, conditions: Conditions, timing: Timing | None, error: str | None) -> None:
    """Raise MeasurementError unless an outcome is one, of the ordered conditions."""
    if (timing is None) == (error is None):
        raise MeasurementError("Report a timing, or an error that says why there is none.")
    if conditions != ordered:
        raise MeasurementError(f"It was timed under {conditions.to_json()}, but ordered under {ordered.to_json()}.")
    if timing is not None:
        Timing.from_json(timing.to_json())
        if not math.isfinite(timing.error):
            raise MeasurementError("The spread of a measurement cannot be beyond all bounds.")


def check_held(measurement_id: str, state: MeasurementState, current: int, attempt: int) -> None:
    """Raise LateOutcomeError unless the attempt is the one that is under way."""
    if state is not MeasurementState.RUNNING or attempt != current:
        raise LateOutcomeError(
            f"Measurement {measurement_id!r} is {state} at attempt {current}; what attempt {attempt} brings is refused."
        )


def lost(attempts: int) -> str:
    """Why a measurement failed that nobody brought back."""
    return f"The agent was lost {attempts} times while it was to measure this."


def short(error: str) -> str:
    """An agent's reason, no longer than anybody reads."""
    return error if len(error) <= _LONGEST_ERROR else error[: _LONGEST_ERROR - 1] + "…"


def noise_of(noises: list[float]) -> float | None:
    """The median of relative errors."""
    return median(noises) if noises else None


def no_device(name: str) -> NotFoundError:
    """The error for an unknown device."""
    return NotFoundError(f"There is no device {name[:80]!r}.")


def no_measurement(measurement_id: str) -> NotFoundError:
    """The error for an unknown measurement."""
    return NotFoundError(f"There is no measurement {measurement_id[:80]!r} for this device.")


def no_batch(batch: str) -> NotFoundError:
    """The error for an unknown batch."""
    return NotFoundError(f"There are no measurements {batch[:80]!r}.")
