"""What a dataset is: labelled images held in memory, loaded by name.

A new dataset is one new file in this folder: a subclass of Dataset, and ``DATASETS.add(...)`` below it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.registry import Registry

MAX_BYTES = 16 * 2**30
_RESIZED_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """What networks take in, and the class of each.

    Attributes:
        images: float32 ``[n, …]``, whatever it shows, as the network takes it in.
        labels: int64 ``[n]``, from 0.
        select: Indices, int64, of those that the source itself sets aside to score candidates; None: draw some.
    """

    images: Tensor
    labels: Tensor
    select: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_images()
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"Labels are int64 [{len(self.images)}], not {_described(self.labels)}.")
        if self.select is not None and (self.select.dtype != torch.int64 or self.select.dim() != 1):
            raise ValueError(f"Indices are int64 [n], not {_described(self.select)}.")

    def _check_images(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() < 2:
            raise ValueError(f"What a network takes in is float32 [n, …], not {_described(self.images)}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one of them."""
        return tuple(self.images.shape[1:])

    @property
    def num_classes(self) -> int:
        """The least number of classes a network needs for these labels."""
        return int(self.labels.max()) + 1 if len(self) else 0


class ImageSet(LabelledSet):
    """Images as bytes, uint8 ``[n, channels, height, width]``: sized, normalised and augmented here."""

    def _check_images(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(f"Images are uint8 [n, channels, height, width], not {_described(self.images)}.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class Dataset(ABC):
    """Labelled images that a search can be run on.

    Class attributes:
        name, help: How it is listed.
        num_classes: None where it is only known once loaded (``ImageSet.num_classes``).
        input_shape: Channels, height and width as stored; None where it is only known once loaded.
        mean, std: Default input normalisation per channel, of values in [0, 1].
        augment: The standard augmentation for training, or None.
        in_memory: Whether loading costs nothing, so that what it gives need not be kept for the next time.
        small: Whether images as stored take little memory, whatever size they are brought to.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    num_classes: ClassVar[int | None] = None
    input_shape: ClassVar[tuple[int, int, int] | None] = None
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    augment: ClassVar[Augment | None] = None
    in_memory: ClassVar[bool] = False
    small: ClassVar[bool] = False

    @abstractmethod
    def load(
        self, root: Path, *, download: bool, image_size: tuple[int, int] | None
    ) -> tuple[LabelledSet, LabelledSet | None]:
        """Read training and test images; the latter None where there is no official test set.

        Args:
            root: The folder to look in.
            download: Fetch the files into ``root`` when they are absent.
            image_size: Height and width to resize to; None keeps the stored size.

        Raises:
            DatasetError: Files are missing or corrupt, or could not be fetched.
        """

    def outline(self, root: Path, *, image_size: tuple[int, int] | None) -> tuple[LabelledSet, LabelledSet | None]:
        """What ``load`` would give, but for the images, which take no memory and show nothing; fetches nothing.

        Orders are checked with it, where the images of many must not be held. By default all are read and forgotten; a
        dataset that is not small, and can tell labels and shapes without reading all images, does that here.
        """
        train, test = self.load(root, download=False, image_size=None if self.small else image_size)
        return hollow(train, image_size), None if test is None else hollow(test, image_size)


DATASETS: Registry[Dataset] = Registry(
    "dataset", package="automl_prune.evaluation.datasets", entry_point_group="automl_prune.datasets"
)


def hollow(images: LabelledSet, image_size: tuple[int, int] | None) -> LabelledSet:
    """As many images of the same shape, brought to ``image_size``, with their labels; they are all one zero."""
    shape, kind = images.sample_shape, LabelledSet
    if isinstance(images, ImageSet):
        channels, *stored = images.input_shape
        height, width = image_size or stored
        check_memory(len(images), channels, (height, width))
        shape, kind = (channels, height, width), ImageSet
    nothing = torch.zeros((), dtype=images.images.dtype).expand(len(images), *shape)
    return kind(nothing, images.labels, images.select)


def resized(images: Tensor, image_size: tuple[int, int] | None) -> Tensor:
    """Images uint8 ``[n, channels, height, width]`` scaled to ``image_size``, bilinear with antialiasing."""
    if image_size is None or image_size == tuple(images.shape[2:]):
        return images
    check_memory(len(images), images.shape[1], image_size)
    parts = [
        F.interpolate(part, image_size, mode="bilinear", antialias=True) for part in torch.split(images, _RESIZED_AT_ONCE)
    ]
    return torch.cat(parts) if parts else images.new_empty(0, images.shape[1], *image_size)


def check_memory(count: int, channels: int, image_size: tuple[int, int]) -> None:
    """Raise DatasetError when so many images would take more than ``MAX_BYTES``."""
    size = count * channels * image_size[0] * image_size[1]
    if size > MAX_BYTES:
        raise DatasetError(
            f"{count:,} images of {channels}×{image_size[0]}×{image_size[1]} take {size / 2**30:,.1f} GiB; images are "
            f"held in memory, at most {MAX_BYTES / 2**30:.0f} GiB of them. Use a smaller folder or a network with a "
            f"smaller input.",
            pointer="/dataset/root",
        )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
