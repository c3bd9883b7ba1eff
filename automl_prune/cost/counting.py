"""MACs as torch itself counts them; the oracle that the closed forms are checked against."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from automl_prune.architecture.tracing import weightless


def counted_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass of one sample, by ``torch.utils.flop_counter`` on the meta device."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        weightless(model)(torch.empty(1, *input_shape, device="meta"))
    return int(counter.get_total_flops()) // 2
