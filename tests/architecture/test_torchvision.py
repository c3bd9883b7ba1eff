"""Every classifier of torchvision, and its segmentation and detection backbones: traced, exact at random widths, counted."""

import gc
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.surgery.fixed_sizes import fixed_sizes
from automl_prune.surgery.slicing import materialise
from automl_prune.surgery.verify import freeze
from tests.architecture.exactness import (
    TOLERANCE,
    Kept,
    calibrate,
    check_macs,
    check_sizes,
    check_whole,
    narrowest_units,
    random_units,
    randomise,
    relative_error,
    run,
    silenced,
)

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)

OTHERS: dict[str, Callable[[], nn.Module]] = {
    "fcn_resnet50": lambda: torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None),
    "deeplabv3_mobilenet_v3_large": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ),
    "retinanet_resnet50_fpn.backbone": lambda: (
        torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).backbone
    ),
}

SIZES = {"alexnet": 64, "inception_v3": 96, "maxvit_t": 224, "vit_h_14": 28}
"""Pixels per side where 32, or 64 for networks that reduce more, would not do."""

BIG = 15_000_000
"""Networks with more parameters are cut once instead of twice."""

AT_LEAST = {
    "resnet18": 12,
    "resnet50": 37,
    "resnext50_32x4d": 37,
    "mobilenet_v2": 25,
    "densenet121": 120,
    "googlenet": 57,
    "inception_v3": 94,
    "efficientnet_b0": 40,
    "regnet_y_400mf": 53,
    "vit_b_16": 12,
    "convnext_tiny": 18,
}
"""Groups that another tool finds (see the classifiers' tests), or one per MLP."""


OF_EACH_FAMILY = {
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18"),
    *(
        "resnet50",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_0",
        "swin_t",
        "vgg11",
        "vgg11_bn",
        "vit_b_16",
    ),
    *("wide_resnet50_2", "deeplabv3_mobilenet_v3_large", "retinanet_resnet50_fpn.backbone"),
}
"""Tested in every run; their larger relatives only with the slow tests."""


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    yield
    gc.collect()


def size_of(name: str) -> int:
    """Pixels per side of the test image: small, since coupling does not depend on it."""
    return SIZES.get(name, 32 if name.startswith(("vit", "vgg", "resnet", "wide", "resnext")) else 64)


def build(name: str) -> nn.Module:
    """A network with cheap values instead of its initialisation, which takes most of a minute for the biggest ones."""
    with pytest.MonkeyPatch.context() as patch:
        for initialiser in [n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")]:
            patch.setattr(nn.init, initialiser, lambda tensor, *_args, **_options: tensor)
        if name in OTHERS:
            model = OTHERS[name]()
        else:
            options: dict[str, object] = {"image_size": size_of(name)} if name.startswith("vit") else {}
            options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            model = torchvision.models.get_model(name, weights=None, **options)
    return calibrate(randomise(model), image(name))


def image(name: str, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """A random batch for a network."""
    return torch.randn(batch, 3, size_of(name), size_of(name), generator=torch.Generator().manual_seed(seed))


def described(name: str) -> tuple[nn.Module, Architecture]:
    """A network and its description as it is before admission proves it, which is not needed anywhere here."""
    model, example = build(name), image(name)
    architecture = trace(model, example)
    return model, freeze(architecture, fixed_sizes(model, architecture, example))


def check_exact(
    model: nn.Module, architecture: Architecture, kept: Kept, inputs: torch.Tensor, whole: list[torch.Tensor]
) -> nn.Module:
    """The cut network, whose outputs are those of the whole one with the producers of what was cut silenced."""
    small = materialise(model, architecture, kept)
    with silenced(model, architecture, kept) as quiet:
        expected = run(quiet, inputs)
    assert relative_error(run(small, inputs), expected) <= TOLERANCE
    assert relative_error(expected, whole) > TOLERANCE, "the cut channels make no difference, so nothing was tested"
    check_sizes(model, architecture, kept, small)
    return small


@pytest.mark.parametrize(
    "name", [n if n in OF_EACH_FAMILY else pytest.param(n, marks=pytest.mark.slow) for n in (*CLASSIFIERS, *OTHERS)]
)
def test_exact_at_random_widths(name: str) -> None:
    model, architecture = described(name)
    inputs = image(name, seed=1)
    assert architecture.free_groups
    whole = run(model, inputs)
    assert all(t.isfinite().all() for t in whole)
    check_whole(model, architecture, inputs, whole)
    if sum(p.numel() for p in model.parameters()) < BIG:
        check_exact(model, architecture, narrowest_units(architecture), inputs, whole)
    kept = random_units(architecture, seed=len(name))
    check_macs(architecture, kept, check_exact(model, architecture, kept, inputs, whole), inputs)


@pytest.mark.parametrize(("name", "count"), AT_LEAST.items())
def test_as_many_groups_as_other_tools_find(name: str, count: int) -> None:
    _, architecture = described(name)
    assert len(architecture.free_groups) >= count


def test_the_hidden_layers_of_every_mlp_are_free() -> None:
    for name, hidden in {"vit_b_16": "mlp.0", "swin_t": "mlp.0", "convnext_tiny": "block.3"}.items():
        model = build(name)
        architecture = trace(model, image(name))
        layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(hidden)}
        free = {layer for g in architecture.free_groups for layer in architecture.producers[g.name]}
        assert layers, name
        assert layers <= free, name


def test_maxvit_is_traced_within_a_minute() -> None:
    model, example = build("maxvit_t"), image("maxvit_t")
    begin = time.perf_counter()
    trace(model, example)
    assert time.perf_counter() - begin < 60
