"""MACs as torch itself counts them; the oracle that the closed forms are checked against."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from automl_prune.architecture.tracing import weightless
from automl_prune.cloning import clone
from automl_prune.errors import TraceError
from automl_prune.steady import steady


def counted_macs(
    model: nn.Module, input_shape: tuple[int, ...], dtype: str = "float32", *, example: Tensor | None = None
) -> int:
    """Multiply-adds of one forward pass of one sample, by ``torch.utils.flop_counter``.

    Counted on the meta device, where fused attention is not missed; on the CPU for modules that make tensors there.

    Args:
        model: In any mode; it is not touched.
        input_shape: Of one sample, without the batch dimension.
        dtype: Of the input, as in ``float32``.
        example: A batch whose first sample is passed instead of zeros, or all of it where the module does not take one; then
            what one sample costs is its share.

    Raises:
        TraceError: It fails with one sample and with all.
    """
    given = torch.zeros(1, *input_shape, dtype=getattr(torch, dtype)) if example is None else example.detach()
    for samples in sorted({1, len(given)}):
        inputs = given[:samples]
        for copied, device in ((weightless, "meta"), (clone, inputs.device)):
            try:
                return _count(copied(model).eval(), inputs.to(device)) // samples
            except Exception as error:
                last = error
    said = str(last).strip().partition("\n")[0]
    raise TraceError(
        f"The multiply-adds of {type(model).__name__} cannot be counted: given {list(inputs.shape)}, it says: "
        f"{type(last).__name__}: {said}".rstrip(": .")
        + "."
    ) from last


def _count(model: nn.Module, inputs: Tensor) -> int:
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach_()
    counter = FlopCounterMode(display=False)
    with steady(inputs.device), counter, torch.no_grad():
        model(inputs.clone())
    return int(counter.get_total_flops()) // 2
