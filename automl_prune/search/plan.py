"""Everything that follows from a SearchSpec before the first trial; whatever is wrong with it is found here.

Names are looked up, the network is traced and verified (once; the result is cached on disk), budgets become absolute and are
checked to be reachable, weights are read and compared with the network, and the dataset is opened.
"""

import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from pydantic import ValidationError

from automl_prune.architecture import Architecture, channel_ids, model, rules, tracing
from automl_prune.costs import METRICS, CostModel
from automl_prune.errors import FieldError, SpecError, UnknownNameError
from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.evaluator import EvaluationSetup, Recovery
from automl_prune.evaluation.images import Images, load_images
from automl_prune.evaluation.loading import check_classes
from automl_prune.evaluation.recipe import FineTune, Recipe
from automl_prune.evaluation.weights import fit, load_state_dict_file, resolve_weights
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.problem import Budget, Objective, Problem
from automl_prune.search.spec import BudgetSpec, SearchSpec, field_errors
from automl_prune.space import ChannelSpace
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.surgery import slicing, verify
from automl_prune.surgery.criteria import CRITERIA

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roots:
    """Folders that names in a spec are resolved below, and where what was learned of networks is cached."""

    data: Path
    weights: Path
    cache: Path


@dataclass(frozen=True)
class Plan:
    """A checked order: what a driver runs.

    Attributes:
        spec: The order.
        network: The network's definition.
        num_classes: Of the network that is built.
        architecture: Traced and verified.
        problem: Space, costs, objective and absolute budgets.
        recipe: The strategy's published recipe with the user's overrides.
        weights: The base network's file, or None: train it first.
        roots: Where things are.
    """

    spec: SearchSpec
    network: NetworkDefinition
    num_classes: int
    architecture: Architecture
    problem: Problem
    recipe: Recipe
    weights: Path | None
    roots: Roots

    def make_strategy(self) -> Strategy:
        """A fresh copy of the ordered strategy."""
        order = self.spec.strategy
        return STRATEGIES.get(order.name).create(
            self.problem, seed=self.spec.seed, preset=order.preset, options=order.options
        )

    def setup(self, artifacts: Path) -> EvaluationSetup:
        """What the workers need."""
        spec = self.spec
        return EvaluationSetup(
            network=self.network.name,
            num_classes=self.num_classes,
            architecture=self.architecture,
            space=self.problem.space,
            dataset=spec.dataset,
            recipe=self.recipe,
            seed=spec.seed,
            weights=self.weights,
            data_root=dataset_root(spec, self.roots),
            artifacts=artifacts,
            cache=self.roots.cache,
            recovery=Recovery(spec.finish.recovery, spec.finish.epochs, spec.finish.lr),
            gpu=spec.resources.gpu,
            base_training=FineTune(epochs=spec.base_training.epochs, lr=spec.base_training.lr),
        )

    @cached_property
    def base_costs(self) -> dict[str, float]:
        """Costs of the full network."""
        return self.problem.costs(self.problem.space.full)

    @cached_property
    def images(self) -> Images:
        """The splits; opened to check the order."""
        return open_images(self.spec, self.network, self.roots)

    def summary(self) -> dict[str, Any]:
        """What ``POST /searches:validate`` answers."""
        space = self.problem.space
        searched = dict(zip(space.names, space.choices, strict=True))
        return {
            "groups": [
                {
                    "name": g.name,
                    "full_width": g.width,
                    "members": list(g.members),
                    "frozen": g.frozen if g.frozen or g.name in searched else "kept whole by the search space",
                    "choices": len(searched.get(g.name, ())) or 1,
                    "narrowest": searched[g.name][0] if g.name in searched else g.width,
                }
                for g in self.architecture.groups
            ],
            "log10_size": space.log10_size,
            "base": self.base_costs,
            "narrowest": self.problem.costs(space.narrowest),
            "uniform": {"widths": space.widths(self.problem.widest_uniform)}
            | self.problem.costs(self.problem.widest_uniform),
            "budgets": [budget_json(b) for b in self.problem.budgets],
            "evaluations": evaluations(self.spec),
            "recipe": self.recipe.model_dump(mode="json"),
            "splits": self.images.describe(),
        }


def make_plan(spec: SearchSpec, roots: Roots) -> Plan:
    """Check an order completely.

    Raises:
        UserError: Any of its kinds, with the JSON pointer of the field.
    """
    network = NETWORKS.get(spec.search_space.name, pointer="/search_space/name")
    DATASETS.get(spec.dataset.name, pointer="/dataset/name")
    strategy = STRATEGIES.get(spec.strategy.name, pointer="/strategy/name")
    strategy.read_options(spec.strategy.preset, spec.strategy.options)
    recipe = read_recipe(strategy, spec)
    preset = network.preset(spec.search_space.preset)
    num_classes = spec.search_space.num_classes or network.num_classes
    images = open_images(spec, network, roots)
    check_classes(images.num_classes, num_classes)
    weights = read_weights(spec, network, num_classes, roots)
    architecture = admitted(network, num_classes, roots.cache)
    wanted = spec.search_space
    space = ChannelSpace.of(
        architecture,
        round_to=preset.round_to if wanted.round_to is None else wanted.round_to,
        min_ratio=preset.min_ratio if wanted.min_ratio is None else wanted.min_ratio,
        frozen=[*wanted.frozen, *preset.frozen],
    )
    cost = CostModel(architecture, space.names)
    full = {name: float(values[0]) for name, values in cost(space.array([space.full])).items()}
    problem = Problem(
        space=space,
        cost=cost,
        objectives=(Objective(spec.objective, maximize=spec.objective != "loss"),),
        budgets=tuple(absolute(b, full, i) for i, b in enumerate(spec.budgets)),
    )
    problem.check_reachable()
    plan = Plan(spec, network, num_classes, architecture, problem, recipe, weights, roots)
    plan.make_strategy()
    return plan


def evaluations(spec: SearchSpec) -> int:
    """Candidate evaluations an order leads to at most, controls included, recovery and report not."""
    return spec.trials.max * (1 + ("random" in spec.controls)) + ("uniform" in spec.controls)


def absolute(budget: BudgetSpec, full: Mapping[str, float], index: int) -> Budget:
    """A budget in absolute terms; raises UnknownNameError for a metric that has no cost model."""
    if budget.metric not in full:
        raise UnknownNameError("budget metric", budget.metric, METRICS, pointer=f"/budgets/{index}/metric")
    if budget.device is not None:
        raise SpecError(
            [FieldError(f"/budgets/{index}/device", f"{budget.metric} does not depend on a device; leave device out.")]
        )
    whole = full[budget.metric]
    most = budget.max if budget.max is not None else None if budget.max_ratio is None else budget.max_ratio * whole
    least = budget.min if budget.min is not None else (budget.min_ratio or 0.0) * whole
    return Budget(budget.metric, max=float("inf") if most is None else most, min=least)


def budget_json(budget: Budget) -> dict[str, Any]:
    """A budget as JSON data; an open side is null."""
    return {
        "metric": budget.metric,
        "max": None if budget.max == float("inf") else budget.max,
        "min": budget.min or None,
    }


def read_recipe(strategy: type[Strategy], spec: SearchSpec) -> Recipe:
    """The preset's recipe with the user's overrides; raises SpecError or UnknownNameError."""
    published = strategy.recipe(spec.strategy.preset)
    try:
        trained = spec.recipe.get("fine_tune")
        merged = {**published, **spec.recipe}
        if isinstance(trained, Mapping):
            merged["fine_tune"] = {**published.get("fine_tune", {}), **trained}
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise SpecError(field_errors(error, "/recipe")) from None
    if recipe.inherit != "scratch":
        CRITERIA.get(recipe.inherit, pointer="/recipe/inherit")
    return recipe


def open_images(spec: SearchSpec, network: NetworkDefinition, roots: Roots) -> Images:
    """The dataset's splits as the network takes them in; raises DatasetError."""
    return load_images(
        DATASETS.get(spec.dataset.name),
        spec.dataset,
        dataset_root(spec, roots),
        input_shape=network.input_shape,
        mean=spec.dataset.mean or network.mean,
        std=spec.dataset.std or network.std,
        seed=spec.seed,
    )


def dataset_root(spec: SearchSpec, roots: Roots) -> Path:
    """The dataset's folder, resolved below the data root; raises SpecError when it leads out of it."""
    root = roots.data.resolve()
    try:
        path = (root / (spec.dataset.root or "")).resolve()
    except (ValueError, OSError, RuntimeError):  # a null byte, a name too long, links in a circle
        path = Path("/")
    if not path.is_relative_to(root):
        raise SpecError([FieldError("/dataset/root", "This folder is not below the server's data root; name one that is.")])
    return path


def read_weights(spec: SearchSpec, network: NetworkDefinition, num_classes: int, roots: Roots) -> Path | None:
    """The weight file, checked against the network; raises WeightsError."""
    if spec.weights is None:
        return None
    path = resolve_weights(roots.weights, spec.weights)
    with torch.random.fork_rng(devices=[]):
        fit(network.build(num_classes), load_state_dict_file(path))
    return path


def admitted(network: NetworkDefinition, num_classes: int, cache: Path) -> Architecture:
    """The network's verified architecture, from the cache where an equal one was admitted before; raises TraceError."""
    file = cache / f"architecture-{_network_id(network, num_classes)}.json"
    try:
        return Architecture.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        log.info("admitting %s", network.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = verify.admit(network.build(num_classes), torch.zeros(1, *network.input_shape))
    cache.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache, suffix=".json")
    with os.fdopen(handle, "w") as stream:
        json.dump(architecture.to_json(), stream)
    Path(temporary).replace(file)
    return architecture


def _network_id(network: NetworkDefinition, num_classes: int) -> str:
    """What an architecture depends on: the network's name and sizes, versions, and the code that builds and describes it."""
    build = getattr(network.build, "func", network.build)
    modules = [channel_ids, model, rules, tracing, slicing, verify, inspect.getmodule(build)]
    sources = [inspect.getsource(m) for m in modules if m is not None]
    key = [network.name, network.input_shape, num_classes, torch.__version__, torchvision.__version__, sources]
    return f"{network.name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"
