"""A dataset's splits as batches for one network, counting every image that passes."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.evaluation.datasets.base import Dataset, ImageSet
from automl_prune.evaluation.loading import Batch, IntArray, Normalise, batches, match_channels
from automl_prune.evaluation.recipe import DatasetSpec
from automl_prune.evaluation.splits import Splits, split


class Images:
    """Batches of the three splits.

    Args:
        train, test: The images; ``test`` None where the report split is a part of ``train``.
        splits: Which are for what.
        batch_size: Images per batch.
        normalise: Turns bytes into network input.
        augment: For training batches, or None.
    """

    def __init__(
        self,
        train: ImageSet,
        test: ImageSet | None,
        splits: Splits,
        *,
        batch_size: int,
        normalise: Normalise,
        augment: Augment | None,
    ) -> None:
        self._train, self._test, self._splits = train, test, splits
        self._batch_size, self._normalise, self._augment = batch_size, normalise, augment
        self.channels_last = False
        self.count = 0

    @property
    def num_classes(self) -> int:
        """Classes the labels need at least."""
        return max(self._train.num_classes, self._test.num_classes if self._test is not None else 0)

    @property
    def fit_batches(self) -> int:
        """Batches in one training pass; a smaller last one is left out of it."""
        return max(1, len(self._splits.fit) // self._batch_size)

    def fit(self, *, limit: int | None = None, shuffled_by: torch.Generator | None = None) -> Iterator[Batch]:
        """Training batches: shuffled and augmented when given a generator, else the same plain ones in the same order."""
        if shuffled_by is not None:
            made = self._batches(
                self._train, self._splits.fit, augment=self._augment, generator=shuffled_by, shuffle=True, drop_last=True
            )
        else:
            order = np.random.default_rng(self._splits.seed).permutation(self._splits.fit)
            made = self._batches(self._train, order, drop_last=True)
        return self._counted(islice(made, limit))

    def select(self) -> Iterator[Batch]:
        """Batches that score candidates."""
        return self._counted(self._batches(self._train, self._splits.select))

    def report(self) -> Iterator[Batch]:
        """Batches for the report."""
        source = self._test if self._splits.report_from == "test" and self._test is not None else self._train
        return self._counted(self._batches(source, self._splits.report))

    def describe(self) -> dict[str, Any]:
        """Sizes, sources and ids of the splits (JSON)."""
        return self._splits.to_json()

    def reset_count(self) -> None:
        """Start counting images from 0."""
        self.count = 0

    def _batches(self, images: ImageSet, indices: IntArray, **options: Any) -> Iterator[Batch]:
        return batches(
            images, indices, self._batch_size, normalise=self._normalise, channels_last=self.channels_last, **options
        )

    def _counted(self, made: Iterator[Batch]) -> Iterator[Batch]:
        for images, labels in made:
            self.count += len(labels)
            yield images, labels


def load_images(
    dataset: Dataset,
    spec: DatasetSpec,
    root: Path,
    *,
    input_shape: tuple[int, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Images:
    """Open a dataset, size it for a network and split it.

    Args:
        dataset: A registered dataset.
        spec: What the user ordered.
        root: The folder to look in.
        input_shape: Channels, height and width the network takes in.
        mean: Input normalisation per channel.
        std: Likewise.
        seed: Of the splits.

    Raises:
        DatasetError: Files are missing or corrupt, sizes do not fit, or the network takes something else.
    """
    channels, height, width = input_shape
    try:
        train, test = _load(dataset, root, spec.download, (height, width))
    except OSError as error:
        raise DatasetError(
            f"Dataset {spec.name!r} cannot be read: {error.strerror or type(error).__name__}. Name a folder below the data "
            f"root that this service may read.",
            pointer="/dataset/root",
        ) from error
    train = match_channels(train, channels)
    test = match_channels(test, channels) if test is not None else None
    if len(mean) != channels or len(std) != channels:
        raise DatasetError(
            f"Normalisation has {len(mean)} means and {len(std)} deviations; the network takes {channels} channels.",
            pointer="/dataset/mean",
        )
    return Images(
        train,
        test,
        split(train, test, select_size=spec.select_size, fit_size=spec.fit_size, report_size=spec.report_size, seed=seed),
        batch_size=spec.batch_size,
        normalise=Normalise(mean, std),
        augment=dataset.augment if spec.augment == "standard" else None,
    )


@lru_cache(maxsize=2)
def _load(dataset: Dataset, root: Path, download: bool, size: tuple[int, int]) -> tuple[ImageSet, ImageSet | None]:
    """Kept for the next call: a server checks many orders on few datasets."""
    return dataset.load(root, download=download, image_size=size)
