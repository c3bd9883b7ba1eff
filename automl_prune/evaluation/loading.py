"""Batches from images held in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.evaluation.datasets.base import ImageSet, LabelledSet

IntArray = npt.NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Prepare(Protocol):
    """Turns stored images into what a network takes in."""

    def __call__(self, images: Tensor, *, channels_last: bool = False) -> Tensor:
        """Map a batch as stored to float32 of the same shape, in the asked memory order."""
        ...


@dataclass(frozen=True)
class Normalise:
    """Maps bytes to ``(x / 255 - mean) / std`` per channel."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor, *, channels_last: bool = False) -> Tensor:
        """Map uint8 ``[n, channels, height, width]`` to float32 of that shape, in the asked memory order."""
        mean, std = (torch.tensor(tuple(values)).reshape(-1, 1, 1) for values in (self.mean, self.std))
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations for {images.shape[1]} channels.")
        order = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(torch.float32, memory_format=order).mul_(1 / (255 * std)).sub_(mean / std)


def as_they_are(images: Tensor, *, channels_last: bool = False) -> Tensor:
    """The batch itself, in the asked memory order."""
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def batches(
    images: LabelledSet,
    indices: IntArray,
    batch_size: int,
    *,
    normalise: Prepare,
    augment: Augment | None = None,
    generator: torch.Generator | None = None,
    shuffle: bool = False,
    drop_last: bool = False,
    channels_last: bool = False,
) -> Iterator[Batch]:
    """One pass over some images, as (float32 ``[n, …]``, int64 ``[n]``).

    Args:
        images: All images.
        indices: Which of them, in this order unless shuffled.
        batch_size: Images per batch; the last may be smaller.
        normalise: Turns bytes into network input.
        augment: Changes a batch at random before it is normalised.
        generator: Where all randomness comes from; needed to shuffle or augment.
        shuffle: Draw a new order.
        drop_last: Leave a smaller last batch out, unless it is the only one: one image alone has no batch variance.
        channels_last: Memory order of the batches; see ``modes.accepts_channels_last``.
    """
    if generator is None and (shuffle or augment is not None):
        raise ValueError("To shuffle or augment takes a generator, so that it can be repeated.")

    def made() -> Iterator[Batch]:
        for part in _parts(indices, batch_size, generator if shuffle else None, drop_last):
            picked = images.images[part]
            if augment is not None and generator is not None:
                picked = augment(picked, generator)
            yield normalise(picked, channels_last=channels_last), images.labels[part]

    return made()


def match_channels(images: ImageSet, channels: int) -> ImageSet:
    """The images with as many channels as the network takes in: grey is repeated, without copying.

    Raises:
        DatasetError: Any other difference.
    """
    came = images.input_shape[0]
    if came == channels:
        return images
    if came == 1:
        return ImageSet(images.images.expand(-1, channels, -1, -1), images.labels, images.select)
    raise DatasetError(
        f"The images have {came} channels and the network takes {channels}. Use a network that takes {came}, or images "
        f"with {channels} or 1.",
        pointer="/dataset/name",
    )


def check_classes(found: int, num_classes: int) -> None:
    """Raise DatasetError when a label is not among the network's classes."""
    if found > num_classes:
        raise DatasetError(
            f"The dataset has labels up to {found - 1} and the network {num_classes} classes. Set "
            f"search_space.num_classes to {found} or more.",
            pointer="/search_space/num_classes",
        )


def _parts(indices: IntArray, batch_size: int, shuffled_by: torch.Generator | None, drop_last: bool) -> list[Tensor]:
    order = torch.from_numpy(indices)
    if shuffled_by is not None:
        order = order[torch.randperm(len(order), generator=shuffled_by)]
    starts = range(0, len(order), batch_size)
    parts = [order[start : start + batch_size] for start in starts]
    return parts[:-1] if drop_last and len(parts) > 1 and len(parts[-1]) < batch_size else parts
