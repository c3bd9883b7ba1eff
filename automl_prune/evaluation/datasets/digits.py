"""The handwritten digits that scikit-learn ships; nothing to download."""

from pathlib import Path

import numpy as np
import torch

from automl_prune.evaluation.augmentation import ShiftFlip
from automl_prune.evaluation.datasets.base import DATASETS, Dataset, ImageSet, resized


class Digits(Dataset):
    """1,797 digits of 8×8 pixels; there is no official test set."""

    name = "digits"
    help = "1,797 handwritten digits of 8×8 pixels, bundled with scikit-learn."
    num_classes = 10
    input_shape = (1, 8, 8)
    mean = (0.3053,)
    std = (0.3759,)
    augment = ShiftFlip(flip=False)
    small = True

    def load(self, root: Path, *, download: bool, image_size: tuple[int, int] | None) -> tuple[ImageSet, ImageSet | None]:
        """Read the bundled images; ``root`` and ``download`` have no effect."""
        from sklearn.datasets import load_digits

        bundle = load_digits()
        pixels = np.rint(bundle.images * (255 / 16)).astype(np.uint8)  # stored as 0 … 16
        images = torch.from_numpy(pixels).unsqueeze(1)
        return ImageSet(resized(images, image_size), torch.from_numpy(bundle.target.astype(np.int64))), None


DATASETS.add(Digits.name, Digits())
