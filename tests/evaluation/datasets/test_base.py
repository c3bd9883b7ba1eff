import pytest
import torch

from automl_prune.errors import DatasetError, UnknownNameError
from automl_prune.evaluation.datasets.base import DATASETS, ImageSet, resized


def test_every_dataset_is_found_by_name_and_describes_itself() -> None:
    assert {"cifar10", "digits", "fashion_mnist", "image_folder"} <= set(DATASETS)
    for name in DATASETS:
        dataset = DATASETS.get(name)
        assert dataset.name == name
        assert dataset.help.endswith(".")
        assert len(dataset.mean) == len(dataset.std) == (dataset.input_shape or (3,))[0]


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        DATASETS.get("cifar100", pointer="/dataset/name")


def test_an_image_set_knows_its_shape_and_classes() -> None:
    images = ImageSet(torch.zeros(3, 1, 4, 5, dtype=torch.uint8), torch.tensor([0, 6, 2]))
    assert (len(images), images.input_shape, images.num_classes) == (3, (1, 4, 5), 7)


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), r"not float32 \[2, 1, 4, 4\]"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"not uint8 \[2, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"int64 \[2\], not int64 \[3\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), r"int64 \[2\], not float32 \[2\]"),
    ],
)
def test_an_image_set_refuses_other_tensors(images: torch.Tensor, labels: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageSet(images, labels)


def test_resizing_keeps_constant_pictures_and_the_left_and_right_of_others() -> None:
    images = torch.full((3, 1, 28, 28), 200, dtype=torch.uint8)
    images[1, :, :, 14:] = 0
    larger = resized(images, (32, 40))
    assert larger.dtype == torch.uint8
    assert larger.shape == (3, 1, 32, 40)
    assert bool((larger[0] == 200).all())
    assert bool((larger[1, :, :, :18] == 200).all())
    assert bool((larger[1, :, :, 22:] == 0).all())


def test_resizing_many_images_gives_what_resizing_each_gives() -> None:
    images = torch.randint(0, 256, (2050, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = resized(images, (6, 6))
    assert together.shape == (2050, 1, 6, 6)
    assert torch.equal(together[2047:], resized(images[2047:], (6, 6)))


def test_the_stored_size_is_no_copy() -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert resized(images, None) is images
    assert resized(images, (8, 8)) is images


def test_more_than_memory_holds_is_refused_before_it_is_tried() -> None:
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(10**6, 1, 1, 1)
    with pytest.raises(DatasetError, match="GiB") as caught:
        resized(images, (224, 224))
    assert caught.value.pointer == "/dataset/root"
