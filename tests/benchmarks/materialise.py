"""Materialising one random candidate: ours against torch-pruning building its graph and pruning the same widths.

    python tests/benchmarks/materialise.py [NAME …]

CPU seconds, median of n; both start from the full network with its weights and end with a smaller module.
"""

import copy
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.networks import NETWORKS
from automl_prune.surgery.slicing import prune
from tests.benchmarks.common import header, seconds

REPEATS = 7


def main(names: list[str]) -> None:
    """Print a row per network."""
    header("materialising one random candidate, L1, CPU ms (median)")
    print(
        f"{'network':14} {'trace':>8} {'ours':>8} {'torch-pruning':>14} {'ratio':>7} {'deepcopy of result':>19}  n={REPEATS}"
    )
    for name in names:
        network = NETWORKS.get(name)
        model = network.build(network.num_classes).eval()
        x = torch.zeros(1, *network.input_shape)
        architecture = trace(model, x)
        rng = np.random.default_rng(0)
        widths = {g.name: max(1, int(g.width * rng.uniform(0.3, 1))) for g in architecture.free_groups}
        ours = prune(model, architecture, widths)
        theirs = by_torch_pruning(model, x, architecture, widths)
        same = sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
        took = {
            "trace": seconds(partial(trace, model, x), REPEATS),
            "ours": seconds(partial(prune, model, architecture, widths), REPEATS),
            "theirs": seconds(partial(by_torch_pruning, model, x, architecture, widths), REPEATS),
            "copy": seconds(partial(copy.deepcopy, ours), REPEATS),
        }
        ms = {k: 1e3 * v for k, v in took.items()}
        ratio = took["theirs"] / took["ours"]
        print(
            f"{name:14} {ms['trace']:8.0f} {ms['ours']:8.1f} {ms['theirs']:14.0f} {ratio:6.1f}x {ms['copy']:19.1f}"
            f"{'' if same else '  (parameter counts differ)'}"
        )


def by_torch_pruning(model: nn.Module, x: torch.Tensor, architecture: Architecture, widths: dict[str, int]) -> nn.Module:
    """The same widths by torch-pruning 1.6.1: copy, build the graph, prune each group by its root layer."""
    copied = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(copied, example_inputs=x)
    for name, width in widths.items():
        layer = copied.get_submodule(architecture.producers[name][0])
        weight = layer.get_parameter("weight").detach()
        drop = weight.flatten(1).abs().sum(1).argsort()[: len(weight) - width].tolist()
        if drop:
            function = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
            graph.get_pruning_group(layer, function, idxs=drop).prune()
    return copied


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet18", "resnet50", "mobilenet_v2"])
