"""Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017, arXiv:1708.07747), in the IDX form of MNIST.

An IDX file is a big-endian header (two zero bytes, type code 8 for uint8, number of dimensions, then 4 bytes a dimension)
and the values, row by row.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from automl_prune.evaluation.augmentation import ShiftFlip
from automl_prune.evaluation.datasets._files import corrupt, fetch, missing
from automl_prune.evaluation.datasets.base import DATASETS, MAX_BYTES, Dataset, ImageSet, resized

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class FashionMnist(Dataset):
    """70,000 grey pictures of clothes, 28×28 pixels, 10,000 of them for testing."""

    name = "fashion_mnist"
    help = "70,000 grey pictures of clothes, 28×28 pixels, in 10 classes."
    num_classes = 10
    input_shape = (1, 28, 28)
    mean = (0.2860,)
    std = (0.3530,)
    augment = ShiftFlip()
    small = True
    mirror: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    md5: ClassVar[tuple[str, ...]] = (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )

    def load(self, root: Path, *, download: bool, image_size: tuple[int, int] | None) -> tuple[ImageSet, ImageSet | None]:
        """Read ``FashionMNIST/raw`` or ``raw`` in ``root``, or ``root`` itself; gzipped or not."""
        files = _locate(root)
        if files is None and download:
            for name, md5 in zip(_FILES, self.md5, strict=True):
                fetch(f"{self.mirror}{name}.gz", md5, root / "FashionMNIST" / "raw")
            files = _locate(root)
        if files is None:
            raise missing("Fashion-MNIST", root, f"FashionMNIST/raw/ with {', '.join(_FILES)}, each with or without .gz")
        train_images, train_labels, test_images, test_labels = files
        return _read(train_images, train_labels, image_size), _read(test_images, test_labels, image_size)


DATASETS.add(FashionMnist.name, FashionMnist())


def _locate(root: Path) -> list[Path] | None:
    for folder in (root / "FashionMNIST" / "raw", root / "raw", root):
        found = [next((f for f in (folder / n, folder / f"{n}.gz") if f.is_file()), None) for n in _FILES]
        files = [file for file in found if file is not None]
        if len(files) == len(_FILES):
            return files
    return None


def _read(images_file: Path, labels_file: Path, image_size: tuple[int, int] | None) -> ImageSet:
    images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise corrupt(labels_file, f"it holds {len(labels):,} labels for {len(images):,} images")
    if labels.size and labels.max() > 9:
        raise corrupt(labels_file, f"it holds the label {labels.max()}; Fashion-MNIST has 0 to 9")
    pixels = torch.from_numpy(images).unsqueeze(1)
    return ImageSet(resized(pixels, image_size), torch.from_numpy(labels.astype(np.int64)))


def _read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The uint8 values of one IDX file, shaped as its header says."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            if stream.read(4) != bytes([0, 0, 8, dimensions]):
                raise corrupt(file, f"it does not start as an IDX file of uint8 values in {dimensions} dimensions")
            shape = [int.from_bytes(stream.read(4), "big") for _ in range(dimensions)]
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise corrupt(file, f"it declares {size:,} values")
            content = stream.read(size + 1)  # one more than there should be, so that a longer file is noticed
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt(file, error) from error
    if len(content) != size:
        raise corrupt(file, f"it declares {size:,} values and holds {'more' if len(content) > size else len(content)}")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)
