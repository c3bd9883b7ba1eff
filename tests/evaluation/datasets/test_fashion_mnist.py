import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from automl_prune.errors import DatasetError
from automl_prune.evaluation.datasets.base import DATASETS, LabelledSet
from automl_prune.evaluation.datasets.fashion_mnist import FashionMnist

SIZES = {"train": 6, "t10k": 3}
FILES = [f"{part}-{kind}-ubyte" for part in SIZES for kind in ("images-idx3", "labels-idx1")]


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def content(name: str) -> bytes:
    n = SIZES[name.split("-")[0]]
    drawn = np.random.default_rng(n)
    images, labels = drawn.integers(0, 256, (n, 28, 28), dtype=np.uint8), drawn.integers(0, 10, n, dtype=np.uint8)
    return idx(images if "images" in name else labels)


def write(folder: Path, *, zipped: bool) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content(name)))
        else:
            (folder / name).write_bytes(content(name))
    return folder


def load(root: Path, image_size: tuple[int, int] | None = None) -> tuple[LabelledSet, LabelledSet]:
    train, test = DATASETS.get("fashion_mnist").load(root, download=False, image_size=image_size)
    assert test is not None
    return train, test


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "raw", "."])
def test_reads_either_form_in_every_usual_place(tmp_path: Path, zipped: bool, place: str) -> None:
    write(tmp_path / "root" / place, zipped=zipped)
    train, test = load(tmp_path / "root")
    assert (train.sample_shape, len(train), len(test)) == ((1, 28, 28), 6, 3)
    drawn = np.random.default_rng(6)
    assert np.array_equal(train.images[:, 0].numpy(), drawn.integers(0, 256, (6, 28, 28), dtype=np.uint8))
    assert train.labels.tolist() == drawn.integers(0, 10, 6, dtype=np.uint8).tolist()


def test_can_be_enlarged_for_networks_of_32_pixels(tmp_path: Path) -> None:
    train, _ = load(write(tmp_path / "raw", zipped=True), (32, 32))
    assert train.sample_shape == (1, 32, 32)


def test_missing_files_say_where_and_what(tmp_path: Path) -> None:
    write(tmp_path / "raw", zipped=True)
    (tmp_path / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match="FashionMNIST/raw/ with train-images-idx3-ubyte") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.pointer == "/dataset/root"


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("train-images-idx3-ubyte", content("train-images-idx3-ubyte")[:-1], "declares 4,704 values and holds 4703"),
        ("train-images-idx3-ubyte", content("train-images-idx3-ubyte") + b"x", "holds more"),
        ("train-images-idx3-ubyte", content("train-labels-idx1-ubyte"), "in 3 dimensions"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "declares 79,228,"),
        ("train-labels-idx1-ubyte", b"", "in 1 dimensions"),
        ("train-labels-idx1-ubyte", idx(np.zeros(5, np.uint8)), "5 labels for 6 images"),
        ("train-labels-idx1-ubyte", idx(np.full(6, 10, np.uint8)), "the label 10"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes, finding: str) -> None:
    (write(tmp_path / "raw", zipped=False) / name).write_bytes(content)
    with pytest.raises(DatasetError, match=finding) as caught:
        load(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("broken", [lambda b: b[:-20], lambda b: b"no gzip", lambda b: b[:20] + b"\xff" * 20 + b[40:]])
def test_a_broken_gzip_is_named(tmp_path: Path, broken: "type[bytes]") -> None:
    file = write(tmp_path / "raw", zipped=True) / "train-images-idx3-ubyte.gz"
    file.write_bytes(broken(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte\.gz is corrupt"):
        load(tmp_path)


def test_downloads_when_asked_and_absent(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, url = served
    for file in write(tmp_path / "packed", zipped=True).iterdir():
        file.rename(folder / file.name)

    class Local(FashionMnist):
        mirror = url
        md5 = tuple(hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in FILES)

    train, test = Local().load(tmp_path / "new", download=True, image_size=None)
    assert test is not None
    assert (len(train), len(test)) == (6, 3)
    assert len(list((tmp_path / "new" / "FashionMNIST" / "raw").iterdir())) == 4


def test_the_real_images_have_the_declared_mean(real_data: Path) -> None:
    if not (real_data / "FashionMNIST" / "raw").is_dir():
        pytest.skip("no FashionMNIST/raw in the real data")
    train, test = load(real_data)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    values = train.images.to(torch.float64) / 255
    assert (float(values.mean()), float(values.std())) == pytest.approx((0.2860, 0.3530), abs=1e-4)
