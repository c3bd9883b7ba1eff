"""Multiply-adds of one sample by every counter there is, and why they differ.

python tests/benchmarks/counting.py [NAME …]

Other counters are not dependencies of the project: ``pip install fvcore thop torchinfo ptflops``; those that are missing are
named and left out. Networks come from torchvision, with random weights.
"""

import contextlib
import copy
import functools
import importlib
import io
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture.tracing import trace, weightless
from automl_prune.costs import CONVENTION, CostModel
from automl_prune.costs.counting import counted_macs
from tests.benchmarks.common import header

NAMES = ("resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0", "vit_b_16", "swin_t", "convnext_tiny")
IMAGE, MAP, TOKENS = (3, 224, 224), (4, 10, 10), (10, 16)

Count = Callable[[nn.Module, Tensor], float]
COUNTERS: dict[str, Count] = {}


class Does(nn.Module):
    """A module that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class First(nn.Module):
    """The first result of a module that is given its input ``times`` over."""

    def __init__(self, inner: nn.Module, times: int) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*[x] * self.times)[0]  # type: ignore[no-any-return]


SINGLE: Mapping[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution 4→6, 3×3": (nn.Conv2d(4, 6, 3, padding=1, bias=False), MAP),
    "the same with bias": (nn.Conv2d(4, 6, 3, padding=1), MAP),
    "the same in 2 groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), MAP),
    "transposed, 2×2, stride 2": (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), MAP),
    "linear 16→5": (nn.Linear(16, 5, bias=False), TOKENS),
    "linear 16→5 with bias": (nn.Linear(16, 5), TOKENS),
    "batch norm": (nn.BatchNorm2d(4), MAP),
    "layer norm": (nn.LayerNorm(16), TOKENS),
    "group norm": (nn.GroupNorm(2, 4), MAP),
    "nn.ReLU": (nn.ReLU(), MAP),
    "functional.relu": (Does(functional.relu), MAP),
    "nn.GELU": (nn.GELU(), MAP),
    "nn.Softmax": (nn.Softmax(-1), MAP),
    "a + b": (Does(lambda x: x + x), MAP),
    "nn.MaxPool2d(2)": (nn.MaxPool2d(2), MAP),
    "nn.AdaptiveAvgPool2d(1)": (nn.AdaptiveAvgPool2d(1), MAP),
    "functional.adaptive_avg_pool2d": (Does(lambda x: functional.adaptive_avg_pool2d(x, 1)), MAP),
    "bilinear, ×2": (nn.Upsample(scale_factor=2, mode="bilinear"), MAP),
    "a @ b": (Does(lambda x: x @ x.transpose(-1, -2)), TOKENS),
    "einsum": (Does(lambda x: torch.einsum("nik,njk->nij", x, x)), TOKENS),
    "scaled_dot_product_attention": (Does(lambda x: functional.scaled_dot_product_attention(x, x, x)), (2, 10, 8)),
    "nn.MultiheadAttention": (First(nn.MultiheadAttention(16, 2, batch_first=True), 3), TOKENS),
    "nn.LSTM(16, 8)": (First(nn.LSTM(16, 8, batch_first=True), 1), TOKENS),
}
"""Modules of one operation: what each counter makes of it."""


def counter(name: str) -> Callable[[Count], Count]:
    """Add a counter."""

    def add(count: Count) -> Count:
        COUNTERS[name] = count
        return count

    return add


@functools.cache
def library(name: str) -> Any:
    """A package of another counter; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@counter("ours")
def ours(model: nn.Module, sample: Tensor) -> float:
    return CostModel(trace(model, sample)).one()["macs"]


@counter("torch, meta")
def torch_meta(model: nn.Module, sample: Tensor) -> float:
    return counted_macs(model, tuple(sample.shape[1:]))


@counter("torch, CPU")
def torch_cpu(model: nn.Module, sample: Tensor) -> float:
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model(sample)
    return int(counted.get_total_flops()) // 2


@counter("fvcore")
def fvcore(model: nn.Module, sample: Tensor) -> float:
    return sum(by_operator(model, sample).values())


@counter("thop")
def thop(model: nn.Module, sample: Tensor) -> float:
    return float(library("thop").profile(model, inputs=(sample,), verbose=False)[0])


@counter("torchinfo")
def torchinfo(model: nn.Module, sample: Tensor) -> float:
    return float(library("torchinfo").summary(model, input_data=sample, verbose=0).total_mult_adds)


@counter("ptflops")
def ptflops(model: nn.Module, sample: Tensor) -> float:
    measure = library("ptflops").get_model_complexity_info
    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False, "backend": "pytorch"}
    return float(measure(model, tuple(sample.shape[1:]), **options)[0])


def by_operator(model: nn.Module, sample: Tensor) -> dict[str, float]:
    """What fvcore counts, by operator."""
    return dict(library("fvcore.nn").FlopCountAnalysis(model, sample).by_operator())


def present() -> dict[str, Count]:
    """The counters that can be used here."""
    packages = {"fvcore": "fvcore.nn", "thop": "thop", "torchinfo": "torchinfo", "ptflops": "ptflops"}
    return {name: count for name, count in COUNTERS.items() if name not in packages or library(packages[name])}


def counted(count: Count, model: nn.Module, shape: tuple[int, ...]) -> float:
    """One counter's number for a copy of a module, without what it prints."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        return count(copy.deepcopy(model).eval(), torch.zeros(1, *shape))


def fvcore_differs(model: nn.Module, sample: Tensor, macs: float) -> dict[str, float]:
    """What fvcore has more (or less) than us, by its own account; what it leaves out is attention."""
    found = by_operator(model, sample)
    shared = ("conv", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "einsum")
    terms = {name: value for name, value in found.items() if name not in shared}
    return terms | {"fused attention": sum(found.get(name, 0) for name in shared) - macs}


def thop_differs(model: nn.Module, sample: Tensor, macs: float) -> dict[str, float]:
    """What thop has beyond us: four an element of a normalisation, pooling, nothing outside the modules it knows."""
    terms: Counter[str] = Counter()

    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if type(module) in (nn.BatchNorm2d, nn.LayerNorm):
            terms[type(module).__name__] += 4 * out.numel()
        elif type(module) is nn.AdaptiveAvgPool2d:
            terms["pooling"] += inputs[0].numel() + out.numel()
        elif type(module) is nn.AvgPool2d:
            terms["pooling"] += out.numel()

    meta = weightless(model)
    for module in meta.modules():
        module.register_forward_hook(add)
    with FlopCounterMode(display=False) as by_module, torch.inference_mode():
        meta(sample.to("meta"))
    layers = {n for n, m in meta.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    names = {f"{type(meta).__name__}.{name}" for name in layers}
    inside = sum(sum(ops.values()) // 2 for name, ops in by_module.get_flop_counts().items() if name in names)
    terms["products and weights outside nn.Conv2d and nn.Linear"] = inside - int(macs)
    return dict(terms)


def why(name: str, model: nn.Module, numbers: Mapping[str, float]) -> str:
    """The terms of the differences in millions, and what they leave unexplained (nothing, where it is not said)."""
    told = []
    for which, differs in (("fvcore", fvcore_differs), ("thop", thop_differs)):
        if which in numbers:
            terms = differs(copy.deepcopy(model).eval(), torch.zeros(1, *IMAGE), numbers["ours"])
            terms["unexplained"] = numbers[which] - numbers["ours"] - sum(terms.values())
            told.append(f"{which}: " + (", ".join(f"{v / 1e6:+,.2f} {k}" for k, v in terms.items() if v) or "the same"))
    return "; ".join(told)


def row(*cells: object) -> None:
    """Print a row of a table in Markdown."""
    print("| " + " | ".join(map(str, cells)) + " |")


def head(*titles: str) -> None:
    """Print a table's head."""
    print()
    row(*titles)
    row("---", *["--:"] * (len(titles) - 1))


def number(value: float, scale: float) -> str:
    return f"{value:,.0f}" if scale == 1 else f"{value / scale:,.3f}"


def main(names: list[str]) -> None:
    """Print three tables: networks, single operations, sizes."""
    header("multiply-adds of one sample by every counter")
    counters = present()
    print(f"not installed: {', '.join(COUNTERS.keys() - counters.keys()) or 'none'}\n{CONVENTION}")
    models = {name: getattr(torchvision.models, name)().eval() for name in names}
    head("network, MMACs", *counters, "why they differ, MMACs")
    for name, model in models.items():
        numbers = {which: counted(count, model, IMAGE) for which, count in counters.items()}
        assert numbers["ours"] == numbers["torch, meta"], name
        with contextlib.redirect_stderr(io.StringIO()):
            reasons = why(name, model, numbers)
        row(name, *(number(v, 1e6) for v in numbers.values()), reasons)
    print("\nOurs is the closed form alone; admission adds what it does not see (an LSTM's hidden products) as a constant.")
    head("one operation, MACs", *counters)
    for name, (model, shape) in SINGLE.items():
        row(name, *(number(counted(count, model, shape), 1) for count in counters.values()))
    head("network", "parameters", "buffers", "memory_mb", "activation_mb")
    for name, model in models.items():
        costs = CostModel(trace(model, torch.zeros(1, *IMAGE))).one()
        assert costs["params"] == sum(p.numel() for p in model.parameters()), name
        buffers = sum(b.numel() for b in model.buffers())
        row(
            name,
            number(costs["params"], 1),
            number(buffers, 1),
            f"{costs['memory_mb']:.3f}",
            f"{costs['activation_mb']:.3f}",
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main(sys.argv[1:] or list(NAMES))
