"""ABCPruner's rule of inheritance (ABC-9), and starting from scratch."""

import torch
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.networks import NETWORKS
from automl_prune.surgery.criteria import CRITERIA
from automl_prune.surgery.inherit import from_scratch, inherit
from automl_prune.surgery.slicing import Ranking


def network(name: str) -> tuple[nn.Module, Architecture]:
    torch.manual_seed(0)
    model = NETWORKS.get(name).build(10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model, trace(model, torch.zeros(1, 3, 32, 32))


def test_convolutions_are_copied_slice_by_slice_and_normalisation_is_not() -> None:
    model, architecture = network("resnet20")
    kept = Ranking(model, architecture, CRITERIA.get("random")).keep({"layer1.0.conv1": 7, "layer2.1.conv1": 9}, seed=3)
    small = inherit(model, architecture, kept, scope="convolutions", seed=1)
    full, cut = dict(model.named_parameters()), dict(small.named_parameters())
    units = kept["layer1.0.conv1"]
    assert torch.equal(cut["layer1.0.conv1.weight"], full["layer1.0.conv1.weight"][units])
    assert torch.equal(cut["layer1.0.conv2.weight"], full["layer1.0.conv2.weight"][:, units])
    assert torch.equal(cut["bn1.weight"], torch.ones(16))
    assert not torch.equal(full["bn1.weight"], torch.ones(16))
    assert torch.equal(cut["linear.weight"], full["linear.weight"]), "its inputs are whole"


def test_a_cut_classifier_starts_afresh_as_do_biases() -> None:
    model, architecture = network("cifar_vgg16_bn")
    last = architecture.layers[-2].name
    small = inherit(model, architecture, {last: range(256)}, scope="convolutions", seed=1)
    assert not torch.equal(small.get_parameter("classifier.weight"), model.get_parameter("classifier.weight")[:, :256])
    assert torch.equal(small.get_parameter("features.0.weight"), model.get_parameter("features.0.weight"))
    assert not torch.equal(small.get_parameter("features.0.bias"), model.get_parameter("features.0.bias"))


def test_all_widths_full_reproduce_every_convolution() -> None:
    model, architecture = network("resnet20")
    small = inherit(model, architecture, {}, scope="convolutions", seed=1)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert all(torch.equal(small.get_parameter(f"{n}.weight"), model.get_parameter(f"{n}.weight")) for n in convolutions)


def test_from_scratch_keeps_the_variance_of_activations() -> None:
    model, architecture = network("resnet20")
    small = from_scratch(model, architecture, {"conv1": range(4), "layer1.0.conv1": range(8)})
    name = "layer1.0.conv2.weight"
    cut, full = small.get_parameter(name), model.get_parameter(name)
    assert cut.shape == (4, 8, 3, 3)
    assert torch.allclose(cut, full[:4, :8] * 2**0.5)
