"""MACs as torch itself counts them; the oracle that the closed forms are checked against."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from automl_prune.architecture.tracing import weightless


def counted_macs(model: nn.Module, input_shape: tuple[int, ...], dtype: str = "float32") -> int:
    """Multiply-adds of one forward pass of one sample of zeros, by ``torch.utils.flop_counter``.

    Counted on the meta device, where fused attention is not missed; on the CPU for modules that make tensors there.
    """
    try:
        return _count(weightless(model), torch.empty(1, *input_shape, dtype=getattr(torch, dtype), device="meta"))
    except Exception:
        return _count(copy.deepcopy(model).eval(), torch.zeros(1, *input_shape, dtype=getattr(torch, dtype)))


def _count(model: nn.Module, inputs: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(inputs)
    return int(counter.get_total_flops()) // 2
