"""Every failure the package expects, and nothing else.

AutomlPruneError
├── UserError                 something the caller sent cannot be done; says what came and what would do
│   ├── UnknownNameError      no such strategy, criterion, dataset, search space, group …
│   ├── SpecError             a SearchSpec with one or more faulty fields
│   ├── TraceError            the network cannot be described as coupled channels
│   ├── WidthError            a width outside its space, or a group that cannot be cut
│   ├── BudgetError           a budget no candidate can meet
│   ├── WeightsError          a weight file that is missing, corrupt or of another network
│   ├── DatasetError          a dataset that is missing, corrupt or cannot be split as asked
│   │   └── MissingDataError  … whose files are not there, and could be fetched
│   └── DeviceError           a device that is unknown, silent, or cannot run what it should time
│       ├── DeviceAwayError   … one that has been silent for longer than it is waited for
│       └── DeviceChangedError … one that is not any more what a search was planned with
├── NotFoundError             no such search, trial or artifact
├── StateConflictError        the search's state does not allow the action
│   ├── PreconditionError     it was changed since the caller looked
│   ├── IdempotencyError      the key was used for another order
│   ├── LateOutcomeError      the trial has been started again; what its last attempt brings is refused
│   └── AnotherAgentError     a device's name was registered again; what its earlier agent says is refused
├── QueueFullError            as many searches wait already as may
├── LeaseLostError            this attempt no longer owns the search; its results are refused
├── NotReadyError             what a search runs on is not there yet; the search waits in the queue
├── WorkersLostError          what a search ran on was lost; ends the driver's attempt, not the search
├── MeasurementError          a time that is no time: not positive, not finite, of other conditions, or never taken
└── EvaluationError           a candidate could not be scored; fails the trial, never the search
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime


class AutomlPruneError(Exception):
    """Base of every error this package raises on purpose."""

    code = "error"


class UserError(AutomlPruneError):
    """What the caller sent cannot be done.

    ``pointer`` is the JSON pointer (RFC 6901) of the field in a SearchSpec, empty where the call came from Python.
    """

    code = "invalid"

    def __init__(self, message: str, *, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class UnknownNameError(UserError):
    """A name that is not registered; the message lists what is, nearest first."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, pointer: str = "") -> None:
        choices = sorted(known)
        name = name if len(name) <= 80 else name[:79] + "…"
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        shown = ", ".join(choices[:40]) + (" …" if len(choices) > 40 else "")
        super().__init__(f"No {kind} is called {name!r}; {hint}known: {shown or 'none'}.", pointer=pointer)
        self.kind, self.name = kind, name


@dataclass(frozen=True)
class FieldError:
    """One faulty field: where (JSON pointer), what is wrong and what would do, and a stable code."""

    pointer: str
    detail: str
    code: str = "invalid"


class SpecError(UserError):
    """A SearchSpec with faulty fields; ``errors`` names each of them."""

    code = "invalid_spec"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(" ".join(f"{e.pointer or '/'}: {e.detail}" for e in self.errors))


class TraceError(UserError):
    """The network cannot be described as coupled channels."""

    code = "untraceable"


class WidthError(UserError):
    """A width outside its space, or a group that cannot be cut."""

    code = "invalid_width"


class BudgetError(UserError):
    """A budget that no candidate of the space can meet."""

    code = "unreachable_budget"


class WeightsError(UserError):
    """A weight file that is missing, corrupt or belongs to another network."""

    code = "invalid_weights"


class DatasetError(UserError):
    """A dataset that is missing, corrupt or cannot be split as asked."""

    code = "invalid_dataset"


class MissingDataError(DatasetError):
    """A dataset whose files are not there, and could be fetched."""


class DeviceError(UserError):
    """A device that is unknown, has not been heard of, or lacks what should run networks on it."""

    code = "device"


class DeviceAwayError(DeviceError):
    """A device that is known, and has been silent since ``since``: once its agent runs again, all goes on."""

    def __init__(self, device: str, since: datetime, message: str) -> None:
        super().__init__(message)
        self.device, self.since = device, since


class DeviceChangedError(DeviceError):
    """A device that is not what a search was planned with: times of both are not comparable. Once it is, all goes on."""


class NotFoundError(AutomlPruneError):
    """No such search, trial or artifact."""

    code = "not_found"


class StateConflictError(AutomlPruneError):
    """The search's state does not allow the action."""

    code = "state_conflict"


class PreconditionError(StateConflictError):
    """The search was changed since the caller looked."""

    code = "precondition_failed"


class IdempotencyError(StateConflictError):
    """The idempotency key was used for another order."""

    code = "idempotency_conflict"


class LateOutcomeError(StateConflictError):
    """The trial has been started again; what an earlier attempt brings is refused."""

    code = "late_outcome"


class AnotherAgentError(StateConflictError):
    """A device's name was registered again, by an agent that speaks for it now; what an earlier one says is refused."""

    code = "another_agent"


class QueueFullError(AutomlPruneError):
    """As many searches of a tenant, or of an API key, wait already as may."""

    code = "too_many_queued"


class LeaseLostError(AutomlPruneError):
    """This attempt no longer owns the search; what it reports is refused."""

    code = "lease_lost"


class NotReadyError(AutomlPruneError):
    """What a search runs on is not there yet, or cannot be reached; the search waits, and is not to blame.

    ``aside`` when others may not wait behind it, as there is enough for them.
    """

    code = "not_ready"

    def __init__(self, message: str, *, aside: bool = False) -> None:
        super().__init__(message)
        self.aside = aside


class WorkersLostError(AutomlPruneError):
    """What a search ran on was lost, and no trial of it is known to be the reason; the next attempt goes on."""

    code = "workers_lost"


class MeasurementError(AutomlPruneError):
    """A time that is none: not positive, not finite, of other conditions, or one that nobody took."""

    code = "measurement"


class EvaluationError(AutomlPruneError):
    """A candidate could not be scored; the trial fails, the search goes on."""

    code = "evaluation_failed"
