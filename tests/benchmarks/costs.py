"""Costs of 10,000 candidates in one call, against counting one materialised network with torch's counter, 10,000 times.

MACs alone, as a budget in MACs needs them, and all metrics; before that, what it takes to make the cost model itself.

python tests/benchmarks/costs.py [NAME …]
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.costs import METRICS, CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.networks import NETWORKS
from automl_prune.space import ChannelSpace
from automl_prune.surgery.slicing import prune
from tests.benchmarks.common import header, seconds

CANDIDATES = 10_000


def main(names: list[str]) -> None:
    """Print a row per network."""
    header(f"costs of {CANDIDATES:,} candidates")
    titles = f"{'model, ms':>10} {'MACs, ms':>10} {'candidates/s':>13} {'all, ms':>9} {'candidates/s':>13}"
    print(f"{'network':14} {titles} {'FlopCounterMode, s':>19} {'ratio':>10}")
    for name in names:
        network = NETWORKS.get(name)
        model = network.build(network.num_classes).eval()
        architecture = trace(model, torch.zeros(1, *network.input_shape))
        space = ChannelSpace.of(architecture)
        rng = np.random.default_rng(0)
        widths = np.stack([rng.choice(choices, CANDIDATES) for choices in space.choices], axis=1)
        cost = CostModel(architecture, space.names)
        small = prune(model, architecture, dict(zip(space.names, widths[0].tolist(), strict=True)))
        assert counted_macs(small, network.input_shape) == cost(widths[:1])["macs"][0]
        making = seconds(partial(made, architecture, space.names), 5)
        macs = seconds(partial(work_out, cost, widths, METRICS[:1]), 7)
        every = seconds(partial(work_out, cost, widths, METRICS), 7)
        counting = seconds(partial(counted_macs, small, network.input_shape), 5) * CANDIDATES
        row = f"{1e3 * making:10.1f} {1e3 * macs:10.1f} {CANDIDATES / macs:13,.0f}"
        row += f" {1e3 * every:9.1f} {CANDIDATES / every:13,.0f}"
        print(f"{name:14} {row} {counting:19,.0f} {counting / macs:9,.0f}x")


def made(architecture: Architecture, names: tuple[str, ...]) -> None:
    """A cost model, with all that it puts off until it is asked."""
    CostModel(architecture, names).one()


def work_out(cost: CostModel, widths: npt.NDArray[np.int64], metrics: Sequence[str]) -> None:
    """Ask for some metrics of a population."""
    costs = cost(widths)
    for metric in metrics:
        costs[metric]


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet18", "resnet50", "mobilenet_v2", "resnet56", "densenet201"])
