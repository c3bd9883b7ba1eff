import hashlib
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from automl_prune.errors import DatasetError
from automl_prune.evaluation.datasets.base import DATASETS, LabelledSet
from automl_prune.evaluation.datasets.cifar10 import Cifar10

Bytes = npt.NDArray[np.uint8]
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def records(name: str, n: int = 4) -> tuple[Bytes, Bytes]:
    """Pixels ``[n, 3072]`` and labels ``[n]``, others for each file."""
    drawn = np.random.default_rng(NAMES.index(name))
    return drawn.integers(0, 256, (n, 3072), dtype=np.uint8), drawn.integers(0, 10, n, dtype=np.uint8)


def binary(name: str) -> bytes:
    pixels, labels = records(name)
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()


def python2(name: str) -> bytes:
    """What Python 2 wrote, opcode by opcode, as in the files that are distributed."""
    pixels, labels = records(name)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K" + bytes([len(labels)]) + b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([y]) for y in labels) + b"e"
    return b"\x80\x02}(U\x0bbatch_labelU\x06a nameU\x06labels" + listed + b"U\x04data" + array + b"u."


def python3(name: str) -> bytes:
    pixels, labels = records(name)
    return pickle.dumps({"labels": labels.tolist(), "data": pixels}, protocol=2)


def write(root: Path, folder: str, suffix: str, make: Callable[[str], bytes]) -> Path:
    (root / folder).mkdir(parents=True)
    for name in NAMES:
        (root / folder / f"{name}{suffix}").write_bytes(make(name))
    return root


def load(root: Path, image_size: tuple[int, int] | None = None) -> tuple[LabelledSet, LabelledSet]:
    train, test = DATASETS.get("cifar10").load(root, download=False, image_size=image_size)
    assert test is not None
    return train, test


FORMS = {
    "binary": ("cifar-10-batches-bin", ".bin", binary),
    "python2": ("cifar-10-batches-py", "", python2),
    "python3": ("cifar-10-batches-py", "", python3),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inside", [False, True])
def test_reads_every_form_in_the_order_of_its_files(tmp_path: Path, form: str, inside: bool) -> None:
    root = write(tmp_path, *FORMS[form])
    train, test = load(root / FORMS[form][0] if inside else root)
    for i, name in enumerate(NAMES):
        part, at = (train, 4 * i) if i < 5 else (test, 0)
        pixels, labels = records(name)
        assert np.array_equal(part.images[at : at + 4].numpy(), pixels.reshape(4, 3, 32, 32))
        assert part.labels[at : at + 4].tolist() == labels.tolist()
    assert (len(train), len(test)) == (20, 4)


def test_can_be_resized(tmp_path: Path) -> None:
    train, test = load(write(tmp_path, *FORMS["binary"]), (48, 40))
    assert train.sample_shape == test.sample_shape == (3, 48, 40)


@pytest.mark.parametrize("make", [lambda p: p, lambda p: p / "absent"])
def test_missing_files_say_where_and_what(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(DatasetError, match=r"cifar-10-batches-bin/ with data_batch_1\.bin") as caught:
        load(make(tmp_path))
    assert str(make(tmp_path)) in str(caught.value)
    assert caught.value.pointer == "/dataset/root"


def test_one_missing_file_is_enough(tmp_path: Path) -> None:
    root = write(tmp_path, *FORMS["binary"])
    (root / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetError, match="No complete CIFAR-10"):
        load(root)


def corrupted(tmp_path: Path, form: str, content: bytes) -> Path:
    folder, suffix, make = FORMS[form]
    root = write(tmp_path, folder, suffix, make)
    (root / folder / f"data_batch_2{suffix}").write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("form", "content", "finding"),
    [
        ("binary", binary("data_batch_2")[:-1], "no whole number of records"),
        ("binary", b"", "no whole number of records"),
        ("binary", b"\x0b" + bytes(3072), "labels from 11 to 11"),
        ("python2", python2("data_batch_2")[:-100], "UnpicklingError|EOFError"),
        ("python2", b"", "EOFError"),
        ("python3", pickle.dumps([1, 2]), "TypeError"),
        ("python3", pickle.dumps({"data": [1]}), "KeyError: 'labels'"),
        ("python3", pickle.dumps({"data": [1], "labels": [1]}), "data is int64"),
        ("python3", pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, 2), "labels from 10 to 10"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path: Path, form: str, content: bytes, finding: str) -> None:
    with pytest.raises(DatasetError, match=finding) as caught:
        load(corrupted(tmp_path, form, content))
    assert "data_batch_2" in str(caught.value)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    root = corrupted(tmp_path, "python2", pickle.dumps({"data": Evil(marker), "labels": [1]}, protocol=2))
    with pytest.raises(DatasetError, match="which no image file needs"):
        load(root)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01btR.",
            "starts with shape",
        ),
        (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "TypeError"),
        (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.", "TypeError"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "encoded as zlib"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "refers to __builtin__.eval"),
    ],
)
def test_a_pickle_cannot_ask_for_memory_or_for_functions(tmp_path: Path, content: bytes, finding: str) -> None:
    with pytest.raises(DatasetError, match=finding):
        load(corrupted(tmp_path, "python2", content))


def archive(folder: Path, content: Path) -> str:
    """Pack ``content`` and return the MD5 of the archive."""
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as packed:
        packed.add(content, "cifar-10-batches-bin")
    return hashlib.md5((folder / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()


def test_downloads_when_asked_and_absent(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, url = served
    md5 = archive(folder, write(tmp_path / "packed", *FORMS["binary"]) / "cifar-10-batches-bin")

    class Local(Cifar10):
        archive = (f"{url}cifar-10-binary.tar.gz", md5)

    root = tmp_path / "new"
    train, _ = Local().load(root, download=True, image_size=None)
    assert np.array_equal(train.images[:4].numpy(), records("data_batch_1")[0].reshape(4, 3, 32, 32))
    assert sorted(p.name for p in (root / "cifar-10-batches-bin").iterdir()) == sorted(f"{n}.bin" for n in NAMES)
    (folder / "cifar-10-binary.tar.gz").unlink()
    assert len(Local().load(root, download=True, image_size=None)[0]) == 20


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_download_says_what_would_do_and_leaves_nothing(
    tmp_path: Path, served: tuple[Path, str], there: bool
) -> None:
    folder, url = served
    if there:
        archive(folder, write(tmp_path / "packed", *FORMS["binary"]) / "cifar-10-batches-bin")

    class Local(Cifar10):
        archive = (f"{url}cifar-10-binary.tar.gz", "0" * 32)

    with pytest.raises(DatasetError, match="could not be fetched") as caught:
        Local().load(tmp_path / "new", download=True, image_size=None)
    assert caught.value.pointer == "/dataset/download"
    assert list((tmp_path / "new" / "cifar-10-batches-bin").iterdir()) == []


def test_the_real_images_have_the_published_mean(real_data: Path) -> None:
    if not (real_data / "cifar-10-batches-bin").is_dir():
        pytest.skip("no cifar-10-batches-bin in the real data")
    train, test = load(real_data)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    means = [float(train.images[:, c].to(torch.float64).mean()) / 255 for c in range(3)]
    assert means == pytest.approx([0.49140, 0.48216, 0.44653], abs=1e-5)
