import torch

from automl_prune.evaluation.augmentation import ShiftFlip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Images in which every pixel of a picture has its own value, never 0."""
    picture = (torch.arange(channels * height * width) % 255 + 1).to(torch.uint8).reshape(channels, height, width)
    return picture.expand(n, -1, -1, -1)


def test_every_result_is_a_crop_of_the_padded_picture() -> None:
    images = numbered(64, 2, 8, 10)
    changed = ShiftFlip(shift=0.25, flip=True)(images, generator())
    padded = torch.zeros(2, 12, 14, dtype=torch.uint8)
    padded[:, 2:10, 2:12] = images[0]
    crops = [padded[:, y : y + 8, x : x + 10] for y in range(5) for x in range(5)]
    allowed = {c.numpy().tobytes() for c in crops} | {c.flip(2).numpy().tobytes() for c in crops}
    came = [image.numpy().tobytes() for image in changed]
    assert set(came) <= allowed
    assert len(set(came)) > 20


def test_half_of_the_pictures_are_mirrored() -> None:
    images = numbered(2000, 1, 4, 4)
    changed = ShiftFlip(shift=0.0)(images, generator())
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    kept = (changed == images).flatten(1).all(1)
    assert bool((mirrored | kept).all())
    assert 0.45 < float(mirrored.float().mean()) < 0.55


def test_digits_are_never_mirrored() -> None:
    images = numbered(500, 1, 8, 8)
    changed = ShiftFlip(shift=0.125, flip=False)(images, generator())
    middle = changed[:, :, 1:7, 1:7]  # inside of every crop that is shifted by at most one pixel
    assert bool((middle[..., 1:].int() - middle[..., :-1].int() == 1).all())


def test_the_generator_decides() -> None:
    images = numbered(32, 3, 16, 16)
    augment = ShiftFlip()
    torch.manual_seed(1)
    first = augment(images, generator(7))
    torch.manual_seed(2)
    assert torch.equal(first, augment(images, generator(7)))
    assert not torch.equal(first, augment(images, generator(8)))
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
