"""What a check of an order reads of a dataset: enough to say the same as the search, and no images."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from automl_prune.errors import DatasetError, MissingDataError
from automl_prune.evaluation.datasets.base import DATASETS, Dataset, ImageSet, LabelledSet
from automl_prune.evaluation.images import Images, load_images
from automl_prune.evaluation.recipe import DatasetSpec
from automl_prune.networks import NETWORKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of twenty grey pictures to train on, and of four to test on."""
    for split, count in (("train", 20), ("val", 4)):
        for name in "abc":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (40, 30), number).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def opened(name: str, root: Path, *, network: str = "resnet20", outline: bool) -> Images:
    spec = DatasetSpec(name=name, select_size=9, fit_size=30)
    return load_images(DATASETS.get(name), spec, root, network=NETWORKS.get(network), seed=3, outline=outline)


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_an_outline_describes_the_splits_that_a_search_will_have(folder: Path, name: str) -> None:
    read, outline = opened(name, folder, outline=False), opened(name, folder, outline=True)
    assert outline.describe() == read.describe()
    assert (outline.num_classes, outline.fit_batches) == (read.num_classes, read.fit_batches)


def test_an_outline_takes_no_memory_and_shows_nothing(folder: Path) -> None:
    """Sixty pictures of 224 times 224, or sixty million: it is all one."""
    outline = opened("image_folder", folder, network="resnet18", outline=True)
    held = outline._train.images
    assert held.shape == (60, 3, 224, 224)
    assert held.untyped_storage().nbytes() == 1
    for batches in (outline.select, outline.report, outline.fit):
        with pytest.raises(RuntimeError, match="not read"):
            next(iter(batches()))


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_folder_of_something_else_is_found_out_by_its_outline(folder: Path, content: bytes) -> None:
    (folder / "train" / "a" / "0.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"0\.png is corrupt"):
        opened("image_folder", folder, outline=True)


def test_an_outline_is_of_files_that_are_here(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError):
        opened("cifar10", tmp_path / "nowhere", outline=True)
    assert not list(tmp_path.iterdir())


def test_an_outline_of_more_than_memory_holds_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl_prune.evaluation.datasets.base.MAX_BYTES", 9_000_000)
    with pytest.raises(DatasetError, match="GiB"):
        opened("image_folder", folder, network="resnet18", outline=True)


class Anothers(Dataset):
    """One that says no more of itself than it must."""

    name = "anothers"
    help = "Of a plug-in."
    mean, std = (0.5,), (0.5,)
    reads: ClassVar[int] = 0

    def load(
        self, root: Path, *, download: bool, image_size: tuple[int, int] | None
    ) -> tuple[LabelledSet, LabelledSet | None]:
        assert image_size is not None
        type(self).reads += 1
        return ImageSet(torch.ones(60, 3, *image_size, dtype=torch.uint8), torch.arange(60) % 10), None


def test_of_a_plug_ins_dataset_the_images_are_read_once_and_forgotten(tmp_path: Path) -> None:
    spec, network = DatasetSpec(name="anothers", select_size=9), NETWORKS.get("resnet20")
    dataset = Anothers()
    for seed in range(3):
        outline = load_images(dataset, spec, tmp_path, network=network, seed=seed, outline=True)
        assert outline._train.images.untyped_storage().nbytes() == 1
    assert Anothers.reads == 1
