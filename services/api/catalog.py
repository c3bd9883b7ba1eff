"""What a SearchSpec can name, as lists: strategies, search spaces, criteria, datasets."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.surgery.criteria import CRITERIA


def catalog() -> dict[str, Any]:
    """Every registered thing by kind; importing them all takes seconds, so an app does it once, when it is made."""
    return {
        "strategies": _items(_strategy(name, STRATEGIES.get(name)) for name in STRATEGIES),
        "search-spaces": _items(_search_space(NETWORKS.get(name)) for name in NETWORKS),
        "criteria": _items(_named(name, CRITERIA.get(name)) for name in CRITERIA),
        "datasets": _items(_named(name, DATASETS.get(name)) for name in DATASETS),
    }


def _items(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {"items": list(found), "next_page_token": None}


def _named(name: str, thing: object) -> dict[str, Any]:
    return {"name": name, "help": getattr(thing, "help", ""), "paper": getattr(thing, "paper", None)}


def _strategy(name: str, strategy: type[Strategy]) -> dict[str, Any]:
    return {
        **_named(name, strategy),
        "options": strategy.Options.model_json_schema(),
        "presets": {preset: dict(options) for preset, options in strategy.presets.items()},
        "default_preset": strategy.default_preset,
        "default_recipe": {preset: dict(recipe) for preset, recipe in strategy.default_recipe.items()},
    }


def _search_space(network: NetworkDefinition) -> dict[str, Any]:
    return {
        **_named(network.name, network),
        "input_shape": list(network.input_shape),
        "num_classes": network.num_classes,
        "presets": {name: asdict(preset) for name, preset in network.presets.items()},
    }
