"""A dataset's splits as batches for one network, counting every image that passes."""

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.evaluation.datasets.base import Dataset, ImageSet, LabelledSet
from automl_prune.evaluation.loading import Batch, IntArray, Normalise, Prepare, as_they_are, batches, match_channels
from automl_prune.evaluation.recipe import DatasetSpec
from automl_prune.evaluation.splits import Splits, split
from automl_prune.networks import NetworkDefinition


class Images:
    """Batches of the three splits.

    Args:
        train, test: The images; ``test`` None where the report split is a part of ``train``.
        splits: Which are for what.
        batch_size: Images per batch.
        normalise: Turns stored images into network input.
        augment: For training batches, or None.
    """

    def __init__(
        self,
        train: LabelledSet,
        test: LabelledSet | None,
        splits: Splits,
        *,
        batch_size: int,
        normalise: Prepare,
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

    def select(self, *, limit: int | None = None) -> Iterator[Batch]:
        """Batches that score candidates: all of the split, or the first ``limit`` images of it in a fixed random order."""
        chosen = self._splits.select
        if limit is not None and limit < len(chosen):
            chosen = np.sort(np.random.default_rng(self._splits.seed).permutation(chosen)[:limit])
        return self._counted(self._batches(self._train, chosen))

    def glance(self, *, least: int, most: int) -> Iterator[Batch]:
        """Batches of an eighth of the select split, ``least`` to ``most`` images; always the same, drawn at random."""
        order = np.random.default_rng(self._splits.seed).permutation(self._splits.select)
        return self._counted(self._batches(self._train, order[: min(most, max(least, len(order) // 8))]))

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

    def _batches(self, images: LabelledSet, indices: IntArray, **options: Any) -> Iterator[Batch]:
        return batches(
            images, indices, self._batch_size, normalise=self._normalise, channels_last=self.channels_last, **options
        )

    def _counted(self, made: Iterator[Batch]) -> Iterator[Batch]:
        for images, labels in made:
            self.count += len(labels)
            yield images, labels


class Outline(Images):
    """Splits whose images were not read: what they are can be described, and no batch be made."""

    def _batches(self, images: LabelledSet, indices: IntArray, **options: Any) -> Iterator[Batch]:
        raise RuntimeError("The images of these splits were not read; load them.")


def load_images(
    dataset: Dataset, spec: DatasetSpec, root: Path, *, network: NetworkDefinition, seed: int, outline: bool = False
) -> Images:
    """Open a dataset, size it for a network and split it.

    Args:
        dataset: Where the images come from.
        spec: What the user ordered.
        root: The folder to look in.
        network: What takes them in: its input shape, and the normalisation where none is ordered.
        seed: Of the splits.
        outline: Whether to read no more than it takes to describe the splits; fetches nothing.

    Raises:
        DatasetError: Files are missing or corrupt, sizes do not fit, or the network takes something else.
    """
    size = network.input_shape[1:] if len(network.input_shape) == 3 else None
    if dataset.in_memory:
        load = partial(dataset.load, download=spec.download)
    else:
        load = partial(_outline, dataset) if outline else partial(_load, dataset, download=spec.download)
    try:
        train, test = load(root, image_size=size)
    except OSError as error:
        raise DatasetError(
            f"Dataset {spec.name!r} cannot be read: {error.strerror or type(error).__name__}. Name a folder below the data "
            f"root that this service may read.",
            pointer="/dataset/root",
        ) from error
    if not isinstance(train, ImageSet) and (spec.mean or spec.std):
        raise DatasetError(
            f"The samples of {spec.name!r} are taken in as they are; leave mean and std out.", pointer="/dataset/mean"
        )
    train = match(train, network.input_shape)
    test = match(test, network.input_shape) if test is not None else None
    return (Outline if outline else Images)(
        train,
        test,
        split(train, test, select_size=spec.select_size, fit_size=spec.fit_size, report_size=spec.report_size, seed=seed),
        batch_size=spec.batch_size,
        normalise=_normalise(spec, network) if isinstance(train, ImageSet) else as_they_are,
        augment=dataset.augment if spec.augment == "standard" else None,
    )


def match(images: LabelledSet, input_shape: tuple[int, ...]) -> LabelledSet:
    """The images as the network takes them in; raises DatasetError when that is not what they are."""
    if isinstance(images, ImageSet) and len(input_shape) == 3:
        return match_channels(images, input_shape[0])
    if images.sample_shape != input_shape:
        raise DatasetError(
            f"The samples are of shape {list(images.sample_shape)} and the network takes {list(input_shape)}. Use a network "
            f"that takes what the dataset has.",
            pointer="/dataset/name",
        )
    return images


def _normalise(spec: DatasetSpec, network: NetworkDefinition) -> Normalise:
    channels, mean, std = network.input_shape[0], spec.mean or network.mean, spec.std or network.std
    if len(mean) != channels or len(std) != channels:
        raise DatasetError(
            f"Normalisation has {len(mean)} means and {len(std)} deviations; the network takes {channels} channels.",
            pointer="/dataset/mean",
        )
    return Normalise(mean, std)


@lru_cache(maxsize=2)
def _load(
    dataset: Dataset, root: Path, *, download: bool, image_size: tuple[int, int] | None
) -> tuple[LabelledSet, LabelledSet | None]:
    """Kept for the next call: a search in one process checks its order, and then works."""
    return dataset.load(root, download=download, image_size=image_size)


@lru_cache(maxsize=32)
def _outline(dataset: Dataset, root: Path, *, image_size: tuple[int, int] | None) -> tuple[LabelledSet, LabelledSet | None]:
    """Kept for the next call: a server checks many orders on few datasets."""
    return dataset.outline(root, image_size=image_size)
