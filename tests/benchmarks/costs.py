"""Costs of 10,000 candidates in one call, against counting one materialised network with torch's counter, 10,000 times.

python tests/benchmarks/costs.py [NAME …]
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.slicing import prune
from tests.benchmarks.common import header, seconds

CANDIDATES = 10_000


def main(names: list[str]) -> None:
    """Print a row per network."""
    header(f"costs of {CANDIDATES:,} candidates")
    print(f"{'network':14} {'one call, ms':>13} {'candidates/s':>13} {'FlopCounterMode, s':>19} {'ratio':>10}")
    for name in names:
        network = NETWORKS.get(name)
        model = network.build(network.num_classes).eval()
        architecture = trace(model, torch.zeros(1, *network.input_shape))
        space = ChannelSpace.of(architecture)
        rng = np.random.default_rng(0)
        widths = np.stack([rng.integers(1, c[-1] + 1, CANDIDATES) for c in space.choices], axis=1)
        cost = CostModel(architecture, space.names)
        small = prune(model, architecture, dict(zip(space.names, widths[0].tolist(), strict=True)))
        assert counted_macs(small, network.input_shape) == cost(widths[:1])["macs"][0]
        ours = seconds(partial(cost, widths), 7)
        counting = seconds(partial(counted_macs, small, network.input_shape), 5) * CANDIDATES
        print(f"{name:14} {1e3 * ours:13.1f} {CANDIDATES / ours:13,.0f} {counting:19,.0f} {counting / ours:9,.0f}x")


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet18", "resnet50", "mobilenet_v2", "resnet56"])
