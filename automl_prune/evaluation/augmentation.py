"""Random changes of whole training batches; no loop over images."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Augment(Protocol):
    """Changes a batch at random without changing its shape."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 images ``[n, channels, height, width]`` to as many changed ones."""
        ...


@dataclass(frozen=True)
class ShiftFlip:
    """Pads with zeros and crops at a random place, then mirrors half of the images left to right.

    Attributes:
        shift: Padding as a part of the shorter side: 0.125 is the usual 4 pixels of a 32-pixel image.
        flip: Whether to mirror; switch it off where left and right mean something, as in digits.
    """

    shift: float = 0.125
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 images ``[n, channels, height, width]`` to as many changed ones."""
        n, _, height, width = images.shape
        padding = round(self.shift * min(height, width))
        rows = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator) + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(n, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
        picked: Tensor = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)
