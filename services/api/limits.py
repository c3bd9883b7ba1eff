"""How much one may order: the service's limits, which a key's may lower."""

from automl_prune.errors import FieldError, SpecError
from automl_prune.loop.ports import QueueLimits
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.keys import KeyLimits
from services.settings import Settings

_PRIORITY = "/priority"


def check(spec: SearchSpec, settings: Settings, own: KeyLimits) -> None:
    """Raise SpecError for an order that is too large, or too urgent."""
    found = [
        _too_many(pointer, ordered, most)
        for pointer, ordered, most in (
            ("/trials/max", spec.trials.max, _lower(settings.max_trials, own.trials)),
            ("/trials/parallel", spec.trials.parallel, own.parallel),
            (_PRIORITY, spec.priority, own.priority),
        )
        if most is not None and ordered > most
    ]
    longest, ordered_seconds = settings.max_seconds, spec.trials.max_seconds
    if longest is not None and (ordered_seconds is None or ordered_seconds > longest):
        detail = f"This service searches for at most {longest:g} seconds; ask for that many or less."
        found.append(FieldError("/trials/max_seconds", detail, "limit"))
    if found:
        raise SpecError(found)


def check_priority(priority: int, own: KeyLimits) -> None:
    """Raise SpecError for a change to a priority that a key may not give."""
    if priority > own.priority:
        raise SpecError([_too_many(_PRIORITY, priority, own.priority)])


def of_queue(settings: Settings, own: KeyLimits) -> QueueLimits:
    """How many searches may wait or be paused."""
    return QueueLimits(own.queued, settings.max_queued)


def _lower(service: int, key: int | None) -> int:
    return service if key is None else min(service, key)


def _too_many(pointer: str, ordered: int, most: int) -> FieldError:
    return FieldError(pointer, f"{ordered:,} is more than this service, or your key, allows; use {most:,} or less.", "limit")
