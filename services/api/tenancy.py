"""What routes see of the store: only what belongs to the tenant of the key that asks."""

from functools import partial
from typing import Any, cast

from automl_prune.loop.ports import Store

BY_TENANT = frozenset(
    {
        "add_search",
        "add_search_once",
        "ordered_before",
        "update_search",
        "request_cancel",
        "request_pause",
        "request_resume",
        "get_search",
        "list_searches",
        "count_searches",
        "ahead_of",
        "attempts",
        "trials",
        "trial",
        "progress",
        "progress_of",
        "artifacts",
        "events",
    }
)
"""The calls of clients; each takes a tenant. Those of drivers and launchers are no business of a request."""


class _Tenanted:
    def __init__(self, store: Store, tenant: str) -> None:
        self._store, self._tenant = store, tenant

    def __getattr__(self, name: str) -> Any:
        if name not in BY_TENANT:
            raise AttributeError(f"A request cannot call {name!r} of the store, which asks for no tenant.")
        return partial(getattr(self._store, name), tenant=self._tenant)


def of_tenant(store: Store, tenant: str) -> Store:
    """The store as a client of this tenant may use it: whatever belongs to another one is not found."""
    return cast(Store, _Tenanted(store, tenant))
