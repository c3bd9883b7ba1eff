"""What routes see of the store: only what belongs to the tenant of the key that asks, which answers for its changes."""

from functools import partial
from typing import Any, cast

from automl_prune.loop.audit import Origin
from automl_prune.loop.ports import Store

CHANGES = frozenset({"add_search", "add_search_once", "update_search", "request_cancel", "request_pause", "request_resume"})
"""The calls that change something; each takes an origin, which the audit trail keeps."""
BY_TENANT = CHANGES | frozenset(
    {
        "ordered_before",
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
        "audit",
    }
)
"""The calls of clients; each takes a tenant. Those of drivers and launchers are no business of a request."""


class _Tenanted:
    def __init__(self, store: Store, tenant: str, origin: Origin) -> None:
        self._store, self._tenant, self._origin = store, tenant, origin

    def __getattr__(self, name: str) -> Any:
        if name not in BY_TENANT:
            raise AttributeError(f"A request cannot call {name!r} of the store, which asks for no tenant.")
        told = {"origin": self._origin} if name in CHANGES else {}
        return partial(getattr(self._store, name), tenant=self._tenant, **told)


def of_tenant(store: Store, tenant: str, origin: Origin) -> Store:
    """The store as a client of this tenant may use it: whatever belongs to another one is not found.

    What is changed through it is noted as coming from ``origin``.
    """
    return cast(Store, _Tenanted(store, tenant, origin))
