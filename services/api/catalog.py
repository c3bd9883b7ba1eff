"""What a SearchSpec can name, as lists: strategies, search spaces, criteria, datasets."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.networks import NETWORKS, NetworkDefinition, Preset
from automl_prune.registry import Registry
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.surgery.criteria import CRITERIA

T = TypeVar("T")
log = logging.getLogger(__name__)


def catalog() -> dict[str, Any]:
    """Every registered thing by kind; importing them all takes seconds, so an app does it once, when it is made."""
    return {
        "strategies": _items(STRATEGIES, _strategy),
        "search-spaces": _items(NETWORKS, _search_space),
        "criteria": _items(CRITERIA, _named),
        "datasets": _items(DATASETS, _named),
    }


def _items(registry: Registry[T], describe: Callable[[str, T], dict[str, Any]]) -> dict[str, Any]:
    items = []
    for name in registry:
        try:
            items.append(json.loads(json.dumps(describe(name, registry.get(name)), allow_nan=False)))
        except Exception as error:  # a plug-in may register anything; it must not end the server
            log.error("the %s %r is not listed: %s: %s", registry.kind, name, type(error).__name__, error)
    return {"items": items, "next_page_token": None}


def _named(name: str, thing: object) -> dict[str, Any]:
    return {"name": name, "help": getattr(thing, "help", ""), "paper": getattr(thing, "paper", None)}


def _strategy(name: str, strategy: type[Strategy]) -> dict[str, Any]:
    return {
        **_named(name, strategy),
        "options": strategy.Options.model_json_schema(),
        "presets": {preset: dict(options) for preset, options in strategy.presets.items()},
        "default_preset": strategy.default_preset,
        "default_recipe": {preset: dict(recipe) for preset, recipe in strategy.default_recipe.items()},
        "default_finish": {preset: dict(finish) for preset, finish in strategy.default_finish.items()},
    }


def _search_space(name: str, network: NetworkDefinition) -> dict[str, Any]:
    return {
        **_named(name, network),
        "input_shape": list(network.input_shape),
        "num_classes": network.num_classes,
        "presets": {name: _preset(preset) for name, preset in network.presets.items()},
    }


def _preset(preset: Preset) -> dict[str, Any]:
    overrides = [{"match": o.match, **o.said()} for o in preset.overrides]
    return {**asdict(preset), "overrides": overrides}
