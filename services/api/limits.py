"""How much one may order: the service's limits, which a key's may lower."""

from automl_prune.errors import FieldError, SpecError
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.keys import KeyLimits
from services.api.problems import RequestError
from services.settings import Settings

RETRY_SECONDS = 60


def check(spec: SearchSpec, store: Store, settings: Settings, own: KeyLimits) -> None:
    """Raise SpecError for an order that is too large, and RequestError (429) when too many in ``store`` wait."""
    found = [
        _too_many(f"/trials/{field}", ordered, most)
        for field, ordered, most in (
            ("max", spec.trials.max, _lower(settings.max_trials, own.trials)),
            ("parallel", spec.trials.parallel, own.parallel),
        )
        if most is not None and ordered > most
    ]
    if found:
        raise SpecError(found)
    most = _lower(settings.max_queued, own.queued)
    if store.count_searches(states=[SearchState.QUEUED]) >= most:
        raise RequestError(
            429,
            "too_many_queued",
            f"{most} of your searches wait already, which is the limit; order again when one has started, or cancel one.",
            retry_after=RETRY_SECONDS,
        )


def _lower(service: int, key: int | None) -> int:
    return service if key is None else min(service, key)


def _too_many(pointer: str, ordered: int, most: int) -> FieldError:
    return FieldError(pointer, f"{ordered:,} is more than this service, or your key, allows; use {most:,} or less.", "limit")
