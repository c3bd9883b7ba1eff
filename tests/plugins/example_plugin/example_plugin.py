"""An example plug-in for automl-prune: a network and a dataset that register themselves when this module is imported."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from automl_prune.evaluation.datasets.base import DATASETS, Dataset, ImageSet, LabelledSet, resized
from automl_prune.networks import NETWORKS, NetworkDefinition, Preset

SIZE, CLASSES = 12, 4


class TwoBranches(nn.Module):
    """A stem, two branches of unequal width that are concatenated, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _block(1, 8, 3)
        self.narrow = _block(8, 8, 1)
        self.wide = _block(8, 16, 3)
        self.head = nn.Linear(24, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        logits: Tensor = self.head(both.amax(dim=(2, 3)))
        return logits


def _block(before: int, after: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Stripes(Dataset):
    """Noisy stripes in four directions, drawn from a fixed seed; the direction is the class."""

    name = "stripes"
    help = "2,000 pictures of stripes in four directions, 12×12 pixels."
    num_classes = CLASSES
    input_shape = (1, SIZE, SIZE)
    mean = (0.5,)
    std = (0.3,)

    def load(
        self, root: Path, *, download: bool, image_size: tuple[int, int] | None
    ) -> tuple[LabelledSet, LabelledSet | None]:
        """Draw the training and the test images; no argument but ``image_size`` has an effect."""
        generator = torch.Generator().manual_seed(0)
        return _draw(1600, generator, image_size), _draw(400, generator, image_size)


def _draw(count: int, generator: torch.Generator, image_size: tuple[int, int] | None) -> ImageSet:
    labels = torch.arange(count) % CLASSES
    angles = labels * math.pi / CLASSES
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    across = x * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
    phases = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    bright = 0.5 + 0.3 * torch.sin(1.6 * across + phases) + 0.1 * torch.randn(across.shape, generator=generator)
    return ImageSet(resized((255 * bright.clamp(0, 1)).byte()[:, None], image_size), labels)


DATASETS.add(Stripes.name, Stripes())
NETWORKS.add(
    "two_branches",
    NetworkDefinition(
        name="two_branches",
        build=TwoBranches,
        input_shape=(1, SIZE, SIZE),
        num_classes=CLASSES,
        presets={"default": Preset(round_to=2, help="Even widths.")},
        help="Two concatenated branches for small grey pictures.",
        mean=Stripes.mean,
        std=Stripes.std,
    ),
)
