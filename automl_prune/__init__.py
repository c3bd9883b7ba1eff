"""Channel pruning as architecture search over widths.

Rooms, from the ground up; each imports only rooms above it in this list (``tests/test_layers.py``):

    errors, messages          what may go wrong · what others' exceptions say
    plugins, registry         modules of others · things by name
    cloning, steady           copies of modules · runs that draw the same random numbers
    architecture              what a network is: layers, coupled channel groups; tracing
    granularity, space        rules for widths · allowed widths per group, and one choice of them
    networks                  registered networks
    costs                     MACs, parameters, memory from widths alone
    trial, problem, pareto    what is searched, one evaluated candidate, fronts
    describe                  a space as data: groups, widths, what is kept whole and why
    surgery                   which channels to keep, and the smaller module
    latency                   milliseconds on devices: timing, tables, predictions
    evaluation                data, splits, recovery, scores
    strategies                what to try next
    loop                      a search from order to result; owns the ports Store and Executor
    storage, execution        the ports' adapters: SQL, Ray
    export                    what leaves: the small network
    functional, …_search      prune, cost and search as functions
    testing                   contracts that plug-ins are tested with

Below these stand ``search_spaces`` (declarations of networks) and ``services`` (HTTP, command line, processes).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automl_prune.architecture import Architecture, ChannelGroup
    from automl_prune.architecture.tracing import trace
    from automl_prune.errors import AutomlPruneError, UserError
    from automl_prune.export import load_architecture
    from automl_prune.functional import cost, prune
    from automl_prune.functional_search import SearchResult, search

__all__ = [
    "Architecture",
    "AutomlPruneError",
    "ChannelGroup",
    "SearchResult",
    "UserError",
    "cost",
    "load_architecture",
    "prune",
    "search",
    "trace",
]

_HOMES = {
    "Architecture": "architecture",
    "AutomlPruneError": "errors",
    "ChannelGroup": "architecture",
    "SearchResult": "functional_search",
    "UserError": "errors",
    "cost": "functional",
    "load_architecture": "export",
    "prune": "functional",
    "search": "functional_search",
    "trace": "architecture.tracing",
}


def __getattr__(name: str) -> Any:
    # Late, so that a room that needs no torch (the store, the command line's listings) does not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
