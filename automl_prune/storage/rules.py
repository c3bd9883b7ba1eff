"""What every store agrees on: which states are owned, what may be kept as JSON, and how a refusal is worded."""

import json
import math
from collections.abc import Mapping
from typing import Any

from automl_prune.errors import (
    IdempotencyError,
    LateOutcomeError,
    LeaseLostError,
    NotFoundError,
    PreconditionError,
    QueueFullError,
    StateConflictError,
)
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Idempotency, Limits
from automl_prune.trial import Outcome, TrialState

OWNED = (SearchState.PREPARING, SearchState.RUNNING, SearchState.FINISHING)
"""States in which a driver holds the search; in all others no driver may write."""

AT_REST = (SearchState.QUEUED, SearchState.PAUSED)
"""States in which nobody holds the search, though it has not ended."""

KEY_HOURS = 24
"""How long a client's idempotency key is remembered."""

CANCELLED, PAUSED, RESUMED = "cancelled by request", "paused by request", "resumed by request"
STARTING = "starting a driver"
LAPSED = "its lease ran out"

LEFT_OVER = Outcome(TrialState.CANCELLED, reason="The search ended before this trial did.")
"""Outcome of trials that were still open when their search ended; no strategy is ever told of it."""


def plain(value: Any, what: str) -> Any:
    """A copy made of JSON types alone; raises ValueError naming ``what`` for NaN, infinity and foreign objects."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_mapping))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be kept as JSON: {error}.") from None


def _mapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def text(value: str) -> str:
    """A string that every database takes: no lone surrogates (they come from file names), no NUL."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def strategy_of(spec: Mapping[str, Any]) -> str | None:
    """The strategy's name in a SearchSpec as JSON."""
    strategy = spec.get("strategy")
    return strategy.get("name") if isinstance(strategy, Mapping) else None


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON; raises ValueError when its state is not terminal or a number in it is not finite."""
    if not outcome.state.is_terminal:
        raise ValueError(f"An outcome has a terminal state, not {outcome.state.value!r}.")
    data = {
        "state": outcome.state.value,
        "metrics": _finite(outcome.metrics, "metric"),
        "cost": _finite(outcome.cost, "cost"),
        "reason": outcome.reason,
        "artifacts": dict(outcome.artifacts),
        "details": dict(outcome.details),
    }
    copy: dict[str, Any] = plain(data, "The outcome")
    return copy


def _finite(numbers: Mapping[str, float], what: str) -> dict[str, float]:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"The {what} {name!r} is {number}; an outcome's numbers are finite.")
    return {name: float(number) for name, number in numbers.items()}


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Read :func:`outcome_to_json`'s form."""
    return Outcome(**{**data, "state": TrialState(data["state"])})


def check_target(state: SearchState) -> None:
    """Raise ValueError unless a driver may move its search to ``state``."""
    if state in AT_REST:
        raise ValueError("A claimed search goes back to the queue, or to rest, by release, not by set_state.")


def check_cancel(search_id: str, state: str) -> None:
    """Raise StateConflictError when the search has ended."""
    if SearchState(state).is_terminal:
        raise already_ended(search_id, state, "cancelled")


def check_pause(search_id: str, state: str, cancel_requested: bool) -> None:
    """Raise StateConflictError when the search has ended or is about to."""
    if SearchState(state).is_terminal:
        raise already_ended(search_id, state, "paused")
    if cancel_requested:
        raise StateConflictError(f"Search {search_id!r} is being cancelled; it cannot be paused.")


def check_resume(search_id: str, state: str, pause_requested: bool) -> None:
    """Raise StateConflictError unless the search is paused or is to be."""
    if state != SearchState.PAUSED and not pause_requested:
        raise StateConflictError(f"Search {search_id!r} is {state}; only a paused search can be resumed.")


def check_priority(search_id: str, state: str) -> None:
    """Raise StateConflictError when the search has ended."""
    if SearchState(state).is_terminal:
        raise StateConflictError(f"Search {search_id!r} has ended ({state}); a priority would change nothing.")


def check_room(waiting: int, most: int) -> None:
    """Raise QueueFullError when as many wait or are paused already as may: these, too, may be resumed at any time."""
    if waiting >= most:
        raise QueueFullError(
            f"{waiting} of your searches wait or are paused already, and the limit is {most}; order again when one has "
            "started, or cancel one."
        )


def limit_of(limits: Limits | None, key_id: str | None) -> int | None:
    """How many searches that a key ordered may run at once; None: any number."""
    if limits is None or key_id is None:
        return None
    return limits(key_id) if callable(limits) else limits.get(key_id)


def taken_over(attempt: int) -> str:
    """Why a search is being prepared again."""
    return f"The lease of attempt {attempt} ran out; attempt {attempt + 1} took over."


def lost(losses: int, most: int | None, how: str) -> str:
    """What became of a driver."""
    return f"driver {losses}{f' of at most {most}' if most else ''} was lost: {how}"


def too_many(losses: int, most: int | None) -> bool:
    """Whether a search fails for the drivers it lost."""
    return most is not None and losses >= most


def ending(state: SearchState, reason: str | None) -> str:
    """Why an attempt ended with its search."""
    return f"{state}: {reason}" if reason and reason != state else state.value


def state_news(search: Any) -> dict[str, Any]:
    """What an event tells of a search, be it a row or a job."""
    return {
        "state": str(search.state),
        "reason": search.state_reason,
        "attempt": search.attempt,
        "cancel_requested": search.cancel_requested,
        "pause_requested": search.pause_requested,
    }


def standing(search: Any) -> str:
    """What is true of a search after a change, be it a row or a job: its state, or what it was asked for."""
    if not SearchState(search.state).is_terminal:
        if search.cancel_requested:
            return "cancel requested"
        if search.pause_requested:
            return "pause requested"
    return str(search.state)


def trial_news(number: int, arm: str, attempt: int, outcome: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an event tells of a trial that was started, or ended with an outcome (as JSON)."""
    told = {name: outcome[name] for name in ("state", "metrics", "reason")} if outcome else {}
    return {"number": number, "arm": arm, "attempt": attempt, **told}


def best_news(number: int, outcome: Outcome) -> dict[str, Any]:
    """What an event tells of a new best trial."""
    return {"number": number, "metrics": _finite(outcome.metrics, "metric")}


def no_search(search_id: str) -> NotFoundError:
    """The error for an unknown search."""
    return NotFoundError(f"There is no search {search_id!r}.")


def no_trial(search_id: str, number: int) -> NotFoundError:
    """The error for an unknown trial."""
    return NotFoundError(f"Search {search_id!r} has no trial {number}.")


def lease_lost(search_id: str, attempt: int, state: str, current: int) -> LeaseLostError:
    """The error for a driver that writes after its time."""
    return LeaseLostError(f"Attempt {attempt} does not own search {search_id!r}: it is {state} at attempt {current}.")


def already_asked(search_id: str, number: int) -> StateConflictError:
    """The error for a second trial of the same number."""
    return StateConflictError(f"Trial {number} of search {search_id!r} was asked before; numbers are used once.")


def already_told(search_id: str, number: int) -> StateConflictError:
    """The error for starting or ending a trial that ended."""
    return StateConflictError(f"Trial {number} of search {search_id!r} has its outcome; the first one stays.")


def late(search_id: str, number: int, attempt: int, current: int) -> LateOutcomeError:
    """The error for an outcome of an attempt that was given up."""
    return LateOutcomeError(
        f"Trial {number} of search {search_id!r} is at attempt {current}; what attempt {attempt} brings is refused."
    )


def already_ended(search_id: str, state: str, done: str) -> StateConflictError:
    """The error for doing something to a search that ended."""
    return StateConflictError(f"Search {search_id!r} has ended ({state}); only a search that has not can be {done}.")


def check_version(search_id: str, version: int, expected: int | None) -> None:
    """Raise PreconditionError when the search is expected to have another version: somebody changed it first."""
    if expected not in (None, version):
        raise PreconditionError(f"Search {search_id!r} was changed and is at version {version}; read it again.")


def check_key(idempotency: Idempotency, fingerprint: str) -> None:
    """Raise IdempotencyError for a key that came with the order of this fingerprint and now comes with another one."""
    if idempotency.fingerprint != fingerprint:
        key = idempotency.key[:80]
        raise IdempotencyError(f"The idempotency key {key!r} came with another order before; take a new one.")
