from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from automl_prune.errors import DatasetError
from automl_prune.evaluation.datasets.base import DATASETS, LabelledSet
from automl_prune.evaluation.loading import Normalise, batches
from automl_prune.evaluation.scoring import score
from automl_prune.evaluation.weights import fit, load_state_dict_file
from automl_prune.networks import NETWORKS

RED, GREEN = (200, 10, 10), (10, 200, 10)


def paint(file: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def load(root: Path, image_size: tuple[int, int] | None = (16, 16)) -> tuple[LabelledSet, LabelledSet | None]:
    return DATASETS.get("image_folder").load(root, download=False, image_size=image_size)


def test_names_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    paint(tmp_path / "dog" / "1.png", RED)
    paint(tmp_path / "cat" / "b.jpg", GREEN)
    paint(tmp_path / "cat" / "a.JPEG", GREEN, (10, 90))
    (tmp_path / "labels.csv").write_text("not a class")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    train, test = load(tmp_path)
    assert test is None
    assert train.labels.tolist() == [0, 0, 1]
    assert train.sample_shape == (3, 16, 16)
    assert train.images[2, :, 8, 8].tolist() == list(RED)
    assert int(train.images[0, 1].min()) > 150


def test_folders_that_are_numbers_are_the_classes_themselves(tmp_path: Path) -> None:
    for name in ("0007", "0100", "0012"):
        paint(tmp_path / name / "x.png")
    train, _ = load(tmp_path)
    assert train.labels.tolist() == [7, 12, 100]
    assert train.num_classes == 101


def test_one_name_that_is_no_number_makes_all_of_them_names(tmp_path: Path) -> None:
    for name in ("7", "100", "other"):
        paint(tmp_path / name / "x.png")
    assert load(tmp_path)[0].labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (10, 10), (13, 200)])
@pytest.mark.parametrize("image_size", [(28, 28), (20, 40)])
def test_the_middle_of_the_picture_is_kept_in_proportion(
    tmp_path: Path, size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    width, height = size
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    pixels = np.stack([(x + 1) * 127, (y + 1) * 127, np.zeros_like(x)], axis=2).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    came = load(tmp_path, image_size)[0].images[0].float()
    assert came.shape == (3, *image_size)
    assert float(came[0].mean()) == pytest.approx(127, abs=4)
    assert float(came[1].mean()) == pytest.approx(127, abs=4)
    # How far the gradient runs over the crop: 7/8 along the side that decides the scale, less along the other.
    scale = max(image_size[0] / height, image_size[1] / width) / 0.875
    for channel, shown, whole in ((0, image_size[1], width), (1, image_size[0], height)):
        means = came[channel].mean(dim=channel)
        expected = 254 * shown / (whole * scale) * (shown - 1) / shown
        assert float(means[-1] - means[0]) == pytest.approx(expected, abs=0.1 * 254)


def test_train_and_val_folders_are_training_and_test_images(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "cat" / "1.png")
    paint(tmp_path / "train" / "dog" / "1.png")
    paint(tmp_path / "val" / "dog" / "1.png")
    train, test = load(tmp_path)
    assert test is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1])


def test_a_test_class_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "cat" / "1.png")
    paint(tmp_path / "test" / "emu" / "1.png")
    with pytest.raises(DatasetError, match="class 'emu' that the training images do not have; known: cat"):
        load(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (20, 20), RED).convert(mode).save(tmp_path / "a" / ("x.jpg" if mode == "CMYK" else "x.png"))
    assert load(tmp_path)[0].sample_shape == (3, 16, 16)


def test_a_corrupt_picture_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    paint(tmp_path / "a" / "2.jpg")
    for content in (b"", b"no picture", (tmp_path / "a" / "2.jpg").read_bytes()[:300]):
        (tmp_path / "a" / "2.jpg").write_bytes(content)
        with pytest.raises(DatasetError, match=r"a/2\.jpg is corrupt") as caught:
            load(tmp_path)
        assert caught.value.pointer == "/dataset/root"


@pytest.mark.parametrize("name", [".", "absent"])
def test_a_folder_without_classes_says_what_was_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"expected one folder per class with .*\.jpg") as caught:
        load(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


def test_a_class_without_pictures_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    paint(tmp_path / "b" / "deeper" / "1.png")
    with pytest.raises(DatasetError, match="directly in it"):
        load(tmp_path)


def test_a_size_is_needed(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    with pytest.raises(DatasetError, match="size"):
        load(tmp_path, None)


def test_a_published_network_knows_the_real_photos(real_data: Path, real_weights: Path, tmp_path: Path) -> None:
    """SqueezeNet is right on about half of all the photos; by chance it would be on one in a thousand."""
    weights = real_weights / "squeezenet1_0-deepcompression.pth"
    if not (real_data / "imagenet-dev").is_dir() or not weights.is_file():
        pytest.skip("no imagenet-dev or no squeezenet1_0-deepcompression.pth in the real data")
    for folder in sorted((real_data / "imagenet-dev").iterdir())[:40]:
        (tmp_path / folder.name).symlink_to(folder)
    photos, _ = load(tmp_path, (227, 227))
    model = NETWORKS.get("squeezenet1_0").build(1000)
    fit(model, load_state_dict_file(weights))
    colours = Normalise(DATASETS.get("image_folder").mean, DATASETS.get("image_folder").std)
    came = score(model, batches(photos, np.arange(len(photos)), 16, normalise=colours, channels_last=True))
    assert len(photos) >= 40
    assert came["top1"] > 0.3
    assert came["top5"] > 0.6
    assert torch.equal(photos.labels, photos.labels.sort().values)
