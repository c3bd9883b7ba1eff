"""The same random numbers and the same state for every run, so that two runs differ by nothing but what was changed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from automl_prune.cloning import clone


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """In each such block torch (on the CPU and on ``device``), numpy and Python draw the same numbers.

    What they draw afterwards is as if there had been no such block.
    """
    cuda = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(cuda):
            torch.default_generator.manual_seed(0)
            for each in cuda:
                with torch.cuda.device(each):
                    torch.cuda.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def fresh(model: nn.Module) -> nn.Module:
    """A copy for one run: it shares the model's parameters, but changes buffers, caches and other state of its own."""
    return clone(model, {id(p): p for p in model.parameters()})
