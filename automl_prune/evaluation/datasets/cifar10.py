"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009), in both of its on-disk forms.

Binary version: records of a label byte and 3,072 bytes R, G, B, each plane row by row. Python version: pickled dicts
with ``data`` uint8 ``[n, 3072]`` in the same order and ``labels``.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from automl_prune.evaluation.augmentation import ShiftFlip
from automl_prune.evaluation.datasets._files import corrupt, fetch, find_folder, missing
from automl_prune.evaluation.datasets.base import DATASETS, Dataset, ImageSet, resized

ByteArray = npt.NDArray[np.uint8]

_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = ("test_batch",)
_PIXELS = 3 * 32 * 32
_MAX_PICKLE_BYTES = 256 * 2**20


class Cifar10(Dataset):
    """60,000 colour photos of 32×32 pixels, 10,000 of them for testing."""

    name = "cifar10"
    help = "60,000 colour photos of 32×32 pixels in 10 classes; binary or Python version."
    num_classes = 10
    input_shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    augment = ShiftFlip()
    small = True
    archive: ClassVar[tuple[str, str]] = (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
    )

    def load(self, root: Path, *, download: bool, image_size: tuple[int, int] | None) -> tuple[ImageSet, ImageSet | None]:
        """Read ``cifar-10-batches-bin`` or ``cifar-10-batches-py`` in ``root``, or ``root`` itself being one of them."""
        found = _locate(root)
        if found is None and download:
            fetch(*self.archive, root / "cifar-10-batches-bin")
            found = _locate(root)
        if found is None:
            raise missing(
                "CIFAR-10",
                root,
                "cifar-10-batches-bin/ with data_batch_1.bin … data_batch_5.bin and test_batch.bin, or "
                "cifar-10-batches-py/ with the same names without .bin",
            )
        folder, suffix = found
        train, test = ([folder / f"{name}{suffix}" for name in names] for names in (_TRAIN, _TEST))
        return _read(train, image_size), _read(test, image_size)


DATASETS.add(Cifar10.name, Cifar10())


def _locate(root: Path) -> tuple[Path, str] | None:
    """The folder that is complete, and how its files end."""
    for folder, suffix in (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", "")):
        found = find_folder(root, (folder, "."), [f"{name}{suffix}" for name in (*_TRAIN, *_TEST)])
        if found is not None:
            return found, suffix
    return None


def _read(files: Sequence[Path], image_size: tuple[int, int] | None) -> ImageSet:
    parts = [_read_binary(file) if file.suffix == ".bin" else _read_pickle(file) for file in files]
    pixels = torch.from_numpy(np.concatenate([p for p, _ in parts]))
    labels = torch.from_numpy(np.concatenate([y for _, y in parts]).astype(np.int64))
    return ImageSet(resized(pixels.reshape(-1, 3, 32, 32), image_size), labels)


def _read_binary(file: Path) -> tuple[ByteArray, ByteArray]:
    """Pixels ``[n, 3072]`` and labels ``[n]`` of one file of the binary version."""
    content = np.fromfile(file, np.uint8)
    if content.size == 0 or content.size % (1 + _PIXELS):
        raise corrupt(file, f"{content.size:,} bytes are no whole number of records of {1 + _PIXELS:,} bytes")
    records = content.reshape(-1, 1 + _PIXELS)
    return records[:, 1:], _checked(records[:, 0], file)


def _read_pickle(file: Path) -> tuple[ByteArray, ByteArray]:
    """Pixels ``[n, 3072]`` and labels ``[n]`` of one file of the Python version."""
    if file.stat().st_size > _MAX_PICKLE_BYTES:
        raise corrupt(file, f"it has {file.stat().st_size:,} bytes where about 31 million are usual")
    try:
        with file.open("rb") as stream:
            entry = _ArraysOnly(stream, encoding="latin1").load()
        pixels, labels = np.asarray(entry["data"]), np.asarray(entry["labels"])
    except Exception as error:  # a pickle of unknown origin may raise anything
        raise corrupt(file, f"{type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS) or labels.dtype.kind != "i":
        raise corrupt(file, f"data is {pixels.dtype} {pixels.shape}, labels {labels.dtype} {labels.shape}")
    return pixels, _checked(labels, file)


def _checked(labels: npt.NDArray[Any], file: Path) -> ByteArray:
    if labels.size and not 0 <= labels.min() <= labels.max() <= 9:
        raise corrupt(file, f"it holds labels from {labels.min()} to {labels.max()}; CIFAR-10 has 0 to 9")
    return labels.astype(np.uint8)


def _empty_array(kind: object, shape: tuple[int, ...], code: object) -> ByteArray:
    if shape != (0,):  # what numpy writes; any other shape would be allocated before a byte of it is read
        raise pickle.UnpicklingError(f"an array starts with shape {shape}")
    return np.empty(0, np.uint8)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


class _ArraysOnly(pickle.Unpickler):
    """Admits plain data and numpy arrays. Nothing named in the file is imported: each name stands for a function here."""

    _admitted: ClassVar[dict[tuple[str, str], Callable[..., object]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): _no_bytes,  # only ever handed to _reconstruct, which does not look at it
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        ("builtins", "bytes"): _no_bytes,
        ("__builtin__", "bytes"): _no_bytes,
    }

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """The stand-in for a name; raises UnpicklingError for every name that CIFAR files do not need."""
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no image file needs") from None
