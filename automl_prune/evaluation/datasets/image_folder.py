"""Any folder of pictures with one folder per class."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import ShiftFlip
from automl_prune.evaluation.datasets._files import corrupt
from automl_prune.evaluation.datasets.base import DATASETS, Dataset, ImageSet, check_memory

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CROP = 0.875  # the part of the shorter side that is kept, as when 256 is cropped to 224


LOOKED_AT = 256
"""Pictures, about, that a check of an order looks at; the search reads them all."""
LONGEST_SIDE = 20
"""Longest side accepted, in shorter sides: resizing a strip would take memory without bounds."""


class ImageFolder(Dataset):
    """Pictures at ``root/<class>/*.jpg``, or the same below ``root/train`` with tests below ``root/val`` or ``root/test``.

    Folder names that are all whole numbers of at most six digits are the class indices themselves, so that a part of
    ImageNet keeps its classes; other names are numbered in sorted order.
    """

    name = "image_folder"
    help = "A folder of pictures with one folder per class; resized and cropped to the network's input."
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    augment = ShiftFlip()

    def load(self, root: Path, *, download: bool, image_size: tuple[int, int] | None) -> tuple[ImageSet, ImageSet | None]:
        """Read every picture; ``image_size`` is required and ``download`` has no effect."""
        return _both(root, image_size, _read)

    def outline(self, root: Path, *, image_size: tuple[int, int] | None) -> tuple[ImageSet, ImageSet | None]:
        """List the pictures, and look at some of them."""
        return _both(root, image_size, _outlined)


DATASETS.add(ImageFolder.name, ImageFolder())


def _both(
    root: Path, image_size: tuple[int, int] | None, read: Callable[[Path, dict[str, int], tuple[int, int]], ImageSet]
) -> tuple[ImageSet, ImageSet | None]:
    """Training pictures, and those to test on, if there are any."""
    if image_size is None:
        raise DatasetError("An image folder needs the size that its pictures are brought to.", pointer="/dataset/name")
    train = root / "train" if (root / "train").is_dir() else root
    classes = _class_indices(train)
    tests = [root / name for name in ("val", "test") if train != root and (root / name).is_dir()]
    test = read(tests[0], classes, image_size) if tests else None
    return read(train, classes, image_size), test


def _class_indices(folder: Path) -> dict[str, int]:
    names = _folders(folder)
    if not names:
        raise DatasetError(
            f"The dataset image_folder finds no pictures in {folder}: expected one folder per class with "
            f"{', '.join(sorted(SUFFIXES))} files in it, but "
            f"{'it has no folders' if folder.is_dir() else 'it does not exist'}. Point dataset.root at such a folder.",
            pointer="/dataset/root",
        )
    if all(name.isascii() and name.isdigit() and len(name) <= 6 for name in names):
        return {name: int(name) for name in names}
    return {name: i for i, name in enumerate(names)}


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(folder: Path, classes: dict[str, int], image_size: tuple[int, int]) -> ImageSet:
    files, labels = _listed(folder, classes)
    check_memory(len(files), 3, image_size)
    images = torch.empty(len(files), 3, *image_size, dtype=torch.uint8)
    with ThreadPoolExecutor(max_workers=4) as pool:  # decoding leaves Python's lock
        for i, pixels in enumerate(pool.map(lambda file: _read_picture(file, image_size), files)):
            images[i] = torch.from_numpy(pixels).permute(2, 0, 1)
    return ImageSet(images, torch.tensor(labels, dtype=torch.int64))


def _outlined(folder: Path, classes: dict[str, int], image_size: tuple[int, int]) -> ImageSet:
    files, labels = _listed(folder, classes)
    check_memory(len(files), 3, image_size)
    for file in files[:: max(1, len(files) // LOOKED_AT)]:
        with _opened(file):
            pass
    nothing = torch.zeros((), dtype=torch.uint8).expand(len(files), 3, *image_size)
    return ImageSet(nothing, torch.tensor(labels, dtype=torch.int64))


def _listed(folder: Path, classes: dict[str, int]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for name in _folders(folder):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise DatasetError(
                f"The dataset image_folder finds no pictures in {folder / name}: expected "
                f"{', '.join(sorted(SUFFIXES))} files directly in it. Remove the folder, or point dataset.root at the "
                f"folder above the classes.",
                pointer="/dataset/root",
            )
        if name not in classes:
            raise _unknown_class(folder, name, list(classes))
        files += found
        labels += [classes[name]] * len(found)
    return files, labels


def _unknown_class(folder: Path, name: str, known: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{folder} has a class {name!r} that the training images do not have; known: {', '.join(known[:10])}"
        f"{' …' if len(known) > 10 else ''}.",
        pointer="/dataset/root",
    )


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A picture of which no more than the head was read; DatasetError when it is none, or turns out to be none."""
    try:
        with Image.open(file) as stored:
            if max(stored.size) > LONGEST_SIDE * min(stored.size):
                raise ValueError(f"its sides, {stored.width} and {stored.height}, differ too much")
            yield stored
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise corrupt(file, error) from error


def _read_picture(file: Path, image_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture as uint8 ``[height, width, 3]``: shorter side resized, centre cropped."""
    height, width = image_size
    with _opened(file) as stored:
        picture = stored.convert("RGB")
    scale = max(height / picture.height, width / picture.width) / CROP
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.array(picture.crop((left, top, left + width, top + height)), np.uint8)
