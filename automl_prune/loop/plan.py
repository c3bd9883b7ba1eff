"""Everything that follows from a SearchSpec before the first trial; whatever is wrong with it is found here.

Names are looked up, the network is traced and verified (once; the result is cached on disk), budgets become absolute and are
checked to be reachable, weights are read and compared with the network, and the dataset is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from automl_prune import plugins
from automl_prune.architecture import Architecture
from automl_prune.describe import describe
from automl_prune.errors import FieldError, MissingDataError, SpecError, WeightsError
from automl_prune.evaluation.datasets.base import DATASETS, Dataset
from automl_prune.evaluation.hypernetwork import check_made
from automl_prune.evaluation.hypernetwork_files import POINTER as HYPERNETWORK_POINTER
from automl_prune.evaluation.hypernetwork_files import About, read_about
from automl_prune.evaluation.images import Images, load_images
from automl_prune.evaluation.loading import check_classes
from automl_prune.evaluation.recipe import WITHOUT_CRITERION, FineTune, Recipe
from automl_prune.evaluation.setup import HYPERNETWORK, EvaluationSetup, Given, Recovery
from automl_prune.evaluation.weights import file_sha256, fit_file, resolve_weights
from automl_prune.latency.devices import LOCAL, StopCheck, never_stopped
from automl_prune.loop.admission import MOST_CHOICES, Admit, admitted, check_size
from automl_prune.loop.budgets import budget_json, check_reachable, priced, rehearsed
from automl_prune.loop.confirmation import rounds
from automl_prune.loop.latencies import (
    DeviceLookup,
    Progress,
    ThisMachine,
    Timed,
    latency_budgets,
    only_local,
    quietly,
)
from automl_prune.loop.measured import Latencies
from automl_prune.loop.spec import SearchSpaceSpec, SearchSpec, field_errors
from automl_prune.loop.stopping import check_early_stop
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.problem import Budget, Objective, Problem
from automl_prune.space import ChannelSpace
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.strict import read
from automl_prune.surgery.criteria import CRITERIA


@dataclass(frozen=True)
class Roots:
    """Folders that names in a spec are resolved below, and where what was learned of networks is cached.

    Weight files may have ``most_bytes``; None: any number.
    """

    data: Path
    weights: Path
    cache: Path
    most_bytes: int | None = None

    def weight_file(self, name: str) -> Path:
        """The file called so below the weights root; raises WeightsError when there is none, or it is too large."""
        path = resolve_weights(self.weights, name)
        size = path.stat().st_size
        if self.most_bytes is not None and size > self.most_bytes:
            detail = f"{name!r} has {size / 1e6:,.1f} MB; weight files may have {self.most_bytes / 1e6:,.1f} here."
            raise WeightsError(detail, pointer="/weights")
        return path


@dataclass(frozen=True)
class Plan:
    """A checked order: what a driver runs.

    Attributes:
        spec: The order.
        network: The network's definition.
        dataset: What the splits are taken from.
        num_classes: Of the network that is built.
        architecture: Traced and verified.
        problem: Space, costs, objective and absolute budgets.
        recipe: The strategy's published recipe with the user's overrides.
        weights: The base network's file, or None: train it first.
        weights_sha256: What is in it.
        roots: Where things are.
        given: The network and the dataset where they came as objects.
        hypernetwork: The PruningNet's file that was ordered, if one was.
        awaits_data: Whether the dataset is yet to be fetched, so that what depends on its size was not checked.
        latencies: The devices that budget the search, once all is timed that predictions need.
        ordered: The budgets as they were ordered; those of the problem may keep a margin to them.
        opened: The splits as the check found them; None: they are opened when somebody asks.
        begun: Whether the order was taken before, so that its trials are not too few now.
    """

    spec: SearchSpec
    network: NetworkDefinition
    dataset: Dataset
    num_classes: int
    architecture: Architecture
    problem: Problem
    recipe: Recipe
    weights: Path | None
    roots: Roots
    given: Given | None = None
    hypernetwork: Path | None = None
    awaits_data: bool = False
    latencies: Latencies | None = None
    ordered: tuple[Budget, ...] = ()
    opened: Images | None = None
    weights_sha256: str | None = None
    begun: bool = False

    def make_strategy(self) -> Strategy:
        """A fresh copy of the ordered strategy."""
        order, problem = self.spec.strategy, self.problem
        if self.awaits_latency:
            problem = rehearsed(problem, [b.device or LOCAL for b in latency_budgets(self.spec).values()])
        return STRATEGIES.get(order.name).create(
            problem,
            seed=self.spec.seed,
            preset=order.preset,
            options=order.options,
            trials=self.spec.trials.max,
            begun=self.begun,
        )

    def setup(self, artifacts: Path) -> EvaluationSetup:
        """What the workers need."""
        spec = self.spec
        return EvaluationSetup(
            network=spec.search_space.name,
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
            plugins=plugins.allowed(),
            given=self.given,
            hypernetwork=self.hypernetwork,
        )

    @property
    def preparations(self) -> tuple[str, ...]:
        """What is made before anything is scored, besides the full network; the evaluator knows these names."""
        return (HYPERNETWORK,) if self.recipe.inherit == "hypernetwork" else ()

    @property
    def rounds(self) -> list[int]:
        """Select images of each round in which the leaders are confirmed."""
        return rounds(self.recipe.select_images, self.spec.dataset.select_size)

    @property
    def awaits_latency(self) -> bool:
        """Whether devices have yet to be asked, so that budgets of latency were not checked."""
        return self.latencies is None and bool(latency_budgets(self.spec))

    @cached_property
    def base_costs(self) -> dict[str, float]:
        """Costs of the full network."""
        return self.problem.costs(self.problem.space.full)

    @cached_property
    def images(self) -> Images:
        """The splits."""
        return self.opened or open_images(self.spec, self.network, self.dataset, self.roots)

    def summary(self) -> dict[str, Any]:
        """What ``POST /searches:validate`` answers."""
        space = self.problem.space
        return describe(self.architecture, space, self.problem.cost) | {
            "uniform": None
            if self.awaits_latency
            else {"widths": space.widths(self.problem.widest_uniform)} | self.problem.costs(self.problem.widest_uniform),
            "budgets": [budget_json(b) for b in self.ordered],
            "latency": self.latencies.describe() if self.latencies else None,
            "evaluations": evaluations(self.spec),
            "recipe": self.recipe.model_dump(mode="json"),
            "splits": None if self.awaits_data else self.images.describe(),
            "weights_sha256": self.weights_sha256,
        }


def make_plan(
    spec: SearchSpec,
    roots: Roots,
    *,
    given: Given | None = None,
    admit: Admit = admitted,
    fetch: bool = True,
    devices: DeviceLookup = only_local,
    local: ThisMachine | None = None,
    progress: Progress = quietly,
    check: StopCheck = never_stopped,
    before: Mapping[str, Any] | None = None,
) -> Plan:
    """Check an order completely.

    Args:
        spec: The order.
        roots: Where the files it names are.
        given: The network and the dataset, instead of those registered under the names in the order.
        admit: How the network's architecture is found; by default in this process.
        fetch: Whether an absent dataset is fetched now where that was ordered, and devices time what their tables lack; else
            both are left for the search to do.
        devices: Where devices other than this machine are looked up.
        local: What times on this machine, registered networks only; by default this process does, given networks too, and
            then nothing stops what never ends.
        progress: Called while devices are timing.
        check: Called before networks are timed anew, now and while the search runs; what it raises ends the search's run.
        before: What earlier drivers of the same search told of it (its ``info``): it keeps its budgets and predictions.

    Raises:
        UserError: Any of its kinds, with the JSON pointer of the field.
    """
    network = given.network if given else NETWORKS.get(spec.search_space.name, pointer="/search_space/name")
    network.preset(spec.search_space.preset)
    dataset = given.dataset if given else DATASETS.get(spec.dataset.name, pointer="/dataset/name")
    strategy = STRATEGIES.get(spec.strategy.name, pointer="/strategy/name")
    strategy.read_options(spec.strategy.preset, spec.strategy.options)
    recipe = read_recipe(strategy, spec)
    num_classes = spec.search_space.num_classes or network.num_classes
    images = open_images(spec, network, dataset, roots) if fetch else images_at_hand(spec, network, dataset, roots)
    check_classes(images.num_classes if images else dataset.num_classes or 0, num_classes)
    if spec.weights is not None:
        roots.weight_file(spec.weights)  # a missing file is known before the long work
    elif spec.weights_sha256 is not None:
        raise WeightsError("This is the SHA-256 of no file: name that in weights.", pointer="/weights_sha256")
    architecture = admit(network, num_classes, roots.cache)
    weights = read_weights(spec, network, num_classes, roots)
    weights_sha256 = None if weights is None else checked_sha256(spec, weights)
    if given is None:  # who hands over objects burdens no machine but their own
        check_size(network, architecture)
    space = ordered_space(spec.search_space, network, architecture, most_choices=None if given else MOST_CHOICES)
    if recipe.inherit == "hypernetwork":
        pointer = "/recipe/inherit" if "inherit" in spec.recipe else "/strategy"
        check_made(architecture, space.names, name=network.name, pointer=pointer)
    planned = {name: about for name, about in (before or {}).get("latency", {}).items() if "times" in about}
    timed = Timed(network, num_classes, architecture, space, roots.cache / "latency", planned, local, check)
    budgeted = priced(spec, timed, devices, now=fetch, progress=progress)
    problem = Problem(
        space=space,
        cost=budgeted.cost,
        objectives=(Objective(spec.objective, maximize=spec.objective != "loss"),),
        budgets=budgeted.kept,
    )
    check_reachable(problem, budgeted)
    hypernetwork = None
    if recipe.inherit == "hypernetwork" and recipe.hypernetwork.file is not None and images is not None:
        about = (spec.search_space.name, num_classes, architecture, space, images, recipe.hypernetwork)
        hypernetwork = read_hypernetwork(recipe.hypernetwork.file, roots, About.of(*about, dataset=spec.dataset.name))
    if images is not None:
        check_early_stop(spec, recipe, images)
    checked = (spec, network, dataset, num_classes, architecture, problem, recipe, weights, roots, given, hypernetwork)
    plan = Plan(
        *checked,
        awaits_data=images is None,
        latencies=budgeted.latencies,
        ordered=budgeted.ordered,
        opened=images,
        weights_sha256=weights_sha256,
        begun=before is not None,
    )
    plan.make_strategy()
    return plan


def ordered_space(
    wanted: SearchSpaceSpec,
    network: NetworkDefinition,
    architecture: Architecture,
    *,
    allow_empty: bool = False,
    most_choices: int | None = None,
) -> ChannelSpace:
    """The space that an order describes: the preset's declaration with the order's changes; raises UserError."""
    preset = network.preset(wanted.preset)
    return ChannelSpace.of(
        architecture,
        round_to=preset.round_to if wanted.round_to is None else wanted.round_to,
        min_ratio=preset.min_ratio if wanted.min_ratio is None else wanted.min_ratio,
        frozen=wanted.frozen,
        overrides=[o.override() for o in wanted.overrides],
        declared=preset.declared,
        allow_empty=allow_empty,
        most_choices=most_choices,
    )


def evaluations(spec: SearchSpec) -> int:
    """Candidate evaluations an order leads to at most, controls included, recovery and report not."""
    alone = ("uniform" in spec.controls) + ("global" in spec.controls)
    return spec.trials.max * (1 + ("random" in spec.controls)) + alone


def read_recipe(strategy: type[Strategy], spec: SearchSpec) -> Recipe:
    """The preset's recipe with the user's overrides; raises SpecError or UnknownNameError."""
    published = strategy.recipe(spec.strategy.preset)
    try:
        merged = {**published, **spec.recipe}
        for part in ("fine_tune", "hypernetwork"):
            if isinstance(ordered := spec.recipe.get(part), Mapping):
                merged[part] = {**published.get(part, {}), **ordered}
        recipe = read(Recipe, merged)
    except ValidationError as error:
        raise SpecError(field_errors(error, "/recipe")) from None
    if recipe.inherit not in WITHOUT_CRITERION:
        CRITERIA.get(recipe.inherit, pointer="/recipe/inherit")
    CRITERIA.get(recipe.criterion, pointer="/recipe/criterion")
    return recipe


def open_images(spec: SearchSpec, network: NetworkDefinition, dataset: Dataset, roots: Roots) -> Images:
    """The dataset's splits as the network takes them in; raises DatasetError."""
    return load_images(dataset, spec.dataset, dataset_root(spec, roots), network=network, seed=spec.seed)


def images_at_hand(spec: SearchSpec, network: NetworkDefinition, dataset: Dataset, roots: Roots) -> Images | None:
    """The same without fetching, reading images or making folders; None where it is absent and ordered to be fetched."""
    try:
        root = dataset_root(spec, roots)
        return load_images(dataset, spec.dataset, root, network=network, seed=spec.seed, outline=True)
    except MissingDataError:
        if not spec.dataset.download:
            raise
        return None


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
    path = roots.weight_file(spec.weights)
    with torch.random.fork_rng(devices=[]):
        fit_file(network.build(num_classes), path, ignore=network.training_only)
    return path


def checked_sha256(spec: SearchSpec, path: Path) -> str:
    """What is in the weight file; raises WeightsError unless it is what was ordered, or noted when it was."""
    found = file_sha256(path)
    if spec.weights_sha256 not in (None, found):
        raise WeightsError(
            f"{spec.weights!r} is another file than was ordered: its SHA-256 is {found}, and not {spec.weights_sha256}. Put "
            f"that file back, or order again.",
            pointer="/weights_sha256",
        )
    return found


def read_hypernetwork(name: str, roots: Roots, wanted: About) -> Path:
    """The file of a PruningNet below the weights root; raises WeightsError unless it makes the candidates of this search."""
    try:
        path = roots.weight_file(name)
    except WeightsError as error:
        error.pointer = HYPERNETWORK_POINTER
        raise
    read_about(path).check_serves(wanted)
    return path
