"""How a network is run here: on its own device, under a precision, and left in the modes it was found in."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from automl_prune.errors import EvaluationError

Precision = Literal["float32", "bfloat16"]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU when it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def training_flags_kept(model: nn.Module) -> Iterator[None]:
    """Give every submodule its own training flag back at the end, whatever happened."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def predict(model: nn.Module, images: Tensor, precision: Precision) -> Tensor:
    """Logits float32 ``[n, classes]`` of images ``[n, …]``, on the model's device.

    Of a tuple (networks with auxiliary heads give one in training) the first is taken.

    Raises:
        EvaluationError: The network gives something else than one row of scores per image.
    """
    device = device_of(model)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        output = model(images.to(device, non_blocking=True))
    logits = output[0] if isinstance(output, tuple) else output
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise EvaluationError(f"The network gives {came} for {len(images)} images; a classifier gives [n, classes].")
    return logits.float()


def accepts_channels_last(model: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Whether the network gives the same scores for a batch in channels-last memory order, in evaluation mode.

    On CPUs that order makes convolutions faster (ResNet-20 at 32×32, one core: 1.2 times in scoring, 1.3 in training), but
    a network that calls ``view`` on its feature maps cannot take it.
    """
    batch = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    if batch.dim() != 4:
        return False
    with torch.inference_mode(), training_flags_kept(model):
        model.eval()
        plain = predict(model, batch, "float32")
        try:
            other = predict(model, batch.contiguous(memory_format=torch.channels_last), "float32")
        except RuntimeError:
            return False
    return torch.allclose(plain, other, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
