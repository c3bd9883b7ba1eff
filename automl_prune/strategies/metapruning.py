"""MetaPruning (Liu et al. 2019, arXiv 1903.10258): evolve widths on weights that a PruningNet makes.

In three stages: a PruningNet is trained to make the weights of any candidate, before the first candidate is asked for and
once for every budget (the recipe's part ``hypernetwork``; see ``evaluation/hypernetwork.py``); widths are evolved by the
score of made weights, with batch norms estimated anew and no training; and the best widths are trained from scratch, which
an order that names no ``finish.recovery`` gets.

The operators are those of :mod:`~automl_prune.strategies.evolution`, which were published with this paper. ``published`` has
the numbers of the released code for MobileNetV1: 50 candidates, 20 generations, 10 parents, 25 mutants at a rate of 0.1 and
25 crossovers (``search.py``), after 64 epochs at a rate of 0.25 that falls in a line (for batches of 512; ``train.py``), and
256 epochs at 0.5 from scratch (for batches of 1024; ``evaluate.py``). ``published_resnet`` has those for ResNet-50: genes 12
to 23 of 31 to begin with, 32 epochs at 0.1 with three steps (for batches of 256), and 128 epochs at 0.2 (for 512); its
window of costs is a budget with ``min`` and ``max``. ``modern`` is for few evaluations, as in ``evolution``.

A network is refused whose searched widths touch no convolution, as a transformer's: nothing would be made for it. Linear
layers of others, and attention, are cropped from weights that all candidates share.

Departures of all: a gene is any width that the space allows, not one of 31 ratios. ResNet-50's bottlenecks have two inner
widths, which are searched apart (published: one gene for both), and its last stage is as free as the others unless the order
freezes it. Rates are those of the published batches, while ``dataset.batch_size`` is 256 unless ordered. Batch norms are
re-estimated on 100 batches as a plain average, where the released code keeps moving ones. Weight decay holds for all weights
with two or more dimensions of a PruningNet, not for layers chosen by name. Training from scratch is the search's own: on the
fit split, without the images that the search selected on, at a rate that falls along a cosine, without label smoothing and
with its own weight decay. And of MobileNetV1 the first norm and the depthwise ones have a scale and a shift per width as
published, which here all norms have or none: none, as in the other networks; ``recipe.hypernetwork.affine`` gives them to
all.
"""

from typing import Any

from automl_prune.strategies.base import STRATEGIES
from automl_prune.strategies.evolution import Evolution

_MADE: dict[str, Any] = {"inherit": "hypernetwork", "recalibrate_batches": 100}


@STRATEGIES.register("metapruning")
class MetaPruning(Evolution):
    """Elitist evolution on a PruningNet's weights; see the module for the presets."""

    name = "metapruning"
    help = "Elitist evolution of widths whose weights a trained PruningNet makes; the winner is trained from scratch."
    paper = "Liu et al. 2019 (MetaPruning), arXiv 1903.10258"
    presets = {
        "modern": Evolution.presets["modern"],
        "published": Evolution.presets["published"],
        "published_resnet": Evolution.presets["published_resnet"],
    }
    default_recipe = {
        "modern": {**_MADE, "recalibrate_batches": 20},
        "published": {
            **_MADE,
            "hypernetwork": {"epochs": 64, "lr": 0.25, "schedule": "linear", "weight_decay": 4e-5},
        },
        "published_resnet": {
            **_MADE,
            "hypernetwork": {"epochs": 32, "lr": 0.1, "schedule": "steps", "weight_decay": 1e-4},
        },
    }
    default_finish = {
        "modern": {"top_k": 1, "recovery": "scratch", "epochs": 30, "lr": 0.1},
        "published": {"top_k": 1, "recovery": "scratch", "epochs": 256, "lr": 0.5},
        "published_resnet": {"top_k": 1, "recovery": "scratch", "epochs": 128, "lr": 0.2},
    }
