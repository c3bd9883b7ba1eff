from pathlib import Path

import pytest
import torch

from automl_prune.evaluation.datasets.base import DATASETS


def test_bundled_digits_fill_the_range_of_bytes(tmp_path: Path) -> None:
    digits = DATASETS.get("digits")
    train, test = digits.load(tmp_path / "absent", download=False, image_size=None)
    assert test is None
    assert (len(train), train.sample_shape, train.num_classes) == (1797, (1, 8, 8), 10)
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    values = train.images.float() / 255
    assert digits.mean[0] == pytest.approx(float(values.mean()), abs=1e-4)
    assert digits.std[0] == pytest.approx(float(values.std(correction=0)), abs=1e-4)


def test_digits_can_be_enlarged(tmp_path: Path) -> None:
    train, _ = DATASETS.get("digits").load(tmp_path, download=False, image_size=(32, 32))
    assert train.sample_shape == (1, 32, 32)
    assert train.images.dtype == torch.uint8
