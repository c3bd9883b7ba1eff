"""What evaluators are made of, as plain data that workers elsewhere can have, and what the origin of a trial tells them."""

from dataclasses import dataclass, field
from pathlib import Path

from automl_prune.architecture import Architecture
from automl_prune.evaluation.datasets.base import Dataset
from automl_prune.evaluation.recipe import DatasetSpec, FineTune, Recipe
from automl_prune.networks import NetworkDefinition
from automl_prune.space import ChannelSpace

PREPARES = "prepares"
"""Key in the origin of a preparation trial: which of the two it makes; the full network where it says nothing."""
FULL_NETWORK, HYPERNETWORK = "full network", "hypernetwork"
IMPORTANCE = "importance"
"""In the origin of the base trial: also say how important each unit is; the key of that in the outcome's details."""
MEASURED = "measured_before"
"""In the origin of the base trial: also say what earlier searches measured; the key of that in the outcome's details."""
SELECT_IMAGES = "select_images"
"""In the origin of a trial: score it on so many select images, whatever the recipe says."""
NOT_RECONSTRUCTED = "not_reconstructed"
"""In the details of an outcome: layers whose weights were to be reconstructed and could not be."""


@dataclass(frozen=True)
class Recovery:
    """What the best candidates get at the end: ``kind`` none, fine_tune or scratch, for ``epochs`` at rate ``lr``."""

    kind: str = "fine_tune"
    epochs: float = 1.0
    lr: float = 0.01


@dataclass(frozen=True)
class Given:
    """A network and data that come as objects instead of registered names; they do not leave the process.

    Attributes:
        network: Its ``build`` gives copies of the caller's module.
        dataset: Hands out the caller's data.
    """

    network: NetworkDefinition
    dataset: Dataset


@dataclass(frozen=True)
class EvaluationSetup:
    """Everything an evaluator needs, as plain data, so that workers elsewhere can build one.

    Attributes:
        network, num_classes: Which registered network.
        architecture, space: The traced network and the searched groups.
        dataset, recipe, recovery, base_training: What the user ordered.
        seed: Of the search: splits, training order, random criteria.
        weights: The base network's file; None when the preparation arm trains it.
        hypernetwork: A PruningNet's file that was ordered; None when the preparation arm trains one where it is needed.
        data_root, artifacts, cache: Folders; artifacts are the search's own.
        gpu: GPUs of a trial; 0 stays on the CPU.
        plugins: Modules to import, because names may be registered there.
        given: The network and the dataset where they are not looked up by name.
    """

    network: str
    num_classes: int
    architecture: Architecture
    space: ChannelSpace
    dataset: DatasetSpec
    recipe: Recipe
    seed: int
    weights: Path | None
    data_root: Path
    artifacts: Path
    cache: Path
    gpu: float = 0.0
    recovery: Recovery = Recovery()
    base_training: FineTune = field(default_factory=lambda: FineTune(epochs=5, lr=0.1))
    plugins: tuple[str, ...] = ()
    given: Given | None = None
    hypernetwork: Path | None = None
