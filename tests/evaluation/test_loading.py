import numpy as np
import pytest
import torch

from automl_prune.errors import DatasetError
from automl_prune.evaluation.augmentation import ShiftFlip
from automl_prune.evaluation.datasets.base import ImageSet
from automl_prune.evaluation.loading import Normalise, batches, check_classes, match_channels

GREY = Normalise((0.5,), (0.25,))


def images(n: int = 10, channels: int = 1, side: int = 8) -> ImageSet:
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(n))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalises_every_channel_by_its_own_mean_and_deviation() -> None:
    pixels = images(4, 3).images
    came = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(pixels)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
        torch.testing.assert_close(came[:, channel], (pixels[:, channel].float() / 255 - mean) / std)


def test_refuses_means_of_another_number_of_channels() -> None:
    with pytest.raises(ValueError, match="1 means and 1 deviations for 3 channels"):
        GREY(images(2, 3).images)


def test_a_pass_gives_the_asked_images_in_their_order() -> None:
    data = images(10)
    indices = np.array([7, 1, 4, 9, 2])
    parts = list(batches(data, indices, 2, normalise=GREY))
    assert [len(y) for _, y in parts] == [2, 2, 1]
    assert torch.cat([y for _, y in parts]).tolist() == indices.tolist()
    torch.testing.assert_close(torch.cat([x for x, _ in parts]), GREY(data.images[indices]))


def test_a_short_last_batch_is_dropped_on_request_unless_it_is_all_there_is() -> None:
    data = images(10)
    sizes = [len(y) for _, y in batches(data, np.arange(10), 4, normalise=GREY, drop_last=True)]
    assert sizes == [4, 4]
    assert [len(y) for _, y in batches(data, np.arange(3), 4, normalise=GREY, drop_last=True)] == [3]
    assert [len(y) for _, y in batches(data, np.arange(8), 4, normalise=GREY, drop_last=True)] == [4, 4]


def test_shuffling_is_a_new_order_of_the_same_images_each_pass() -> None:
    data, drawn = images(50), generator()
    first, second = (
        torch.cat([y for _, y in batches(data, np.arange(50), 16, normalise=GREY, generator=drawn, shuffle=True)])
        for _ in range(2)
    )
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert first.tolist() != second.tolist()


def test_shuffled_and_augmented_passes_repeat_with_the_generator_and_leave_the_global_one_alone() -> None:
    data = images(20)

    def one_pass(seed: int) -> torch.Tensor:
        made = batches(data, np.arange(20), 8, normalise=GREY, augment=ShiftFlip(), generator=generator(seed), shuffle=True)
        return torch.cat([x for x, _ in made])

    before = torch.get_rng_state()
    assert torch.equal(one_pass(1), one_pass(1))
    assert not torch.equal(one_pass(1), one_pass(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_stay_with_their_labels_when_shuffled() -> None:
    data = images(30)
    for x, y in batches(data, np.arange(30), 7, normalise=GREY, generator=generator(), shuffle=True):
        torch.testing.assert_close(x, GREY(data.images[y]))


@pytest.mark.parametrize("kwargs", [{"shuffle": True}, {"augment": ShiftFlip()}])
def test_randomness_without_a_generator_is_refused_at_once(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="generator"):
        batches(images(), np.arange(2), 2, normalise=GREY, **kwargs)  # type: ignore[arg-type]


def test_memory_order_changes_nothing_but_strides() -> None:
    data = images(6, 3)
    colour = Normalise((0.5,) * 3, (0.25,) * 3)
    (plain, _), (last, _) = (
        next(batches(data, np.arange(6), 6, normalise=colour, channels_last=flag)) for flag in (False, True)
    )
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_grey_images_are_repeated_for_a_colour_network_without_a_copy() -> None:
    grey = images(5)
    colour = match_channels(grey, 3)
    assert colour.input_shape == (3, 8, 8)
    assert colour.images.data_ptr() == grey.images.data_ptr()
    assert all(torch.equal(colour.images[:, c], grey.images[:, 0]) for c in range(3))
    assert match_channels(grey, 1) is grey


def test_colour_images_do_not_fit_a_grey_network() -> None:
    with pytest.raises(DatasetError, match="3 channels and the network takes 1") as caught:
        match_channels(images(2, 3), 1)
    assert caught.value.pointer == "/dataset/name"


def test_labels_beyond_the_networks_classes_are_refused() -> None:
    check_classes(images(10).num_classes, 10)
    with pytest.raises(DatasetError, match="labels up to 9 and the network 9 classes") as caught:
        check_classes(images(10).num_classes, 9)
    assert caught.value.pointer == "/search_space/num_classes"
