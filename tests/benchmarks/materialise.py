"""Materialising one random candidate: ours against torch-pruning 1.6.1 cutting the same widths, and against ``deepcopy``.

    python tests/benchmarks/materialise.py [NAME …]

CPU milliseconds, median of n (n = 1: a single run, not warmed up). Both start from the full network with its weights and end
with a smaller module, and choose channels by L1. Per candidate ours is: look the channels up in a ranking that was made
once, and cut. Torch-pruning's is: copy, build the graph (a forward pass at the network's input size), rank the channels of
each group's root layer, cut; what its ranking takes has a column of its own. That is its quickest way; the one that its
documentation shows is a pruner with a ratio per layer, made and stepped, on a copy.

Ours and ``deepcopy`` take turns, so that both find the allocator in the same state. Every network has a process of its own:
after another network in the same process, torch-pruning's time on resnet50 was seen to differ by a third.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.networks import NETWORKS
from automl_prune.surgery.criteria import CRITERIA
from automl_prune.surgery.slicing import Ranking, materialise
from tests.benchmarks.common import header, seconds

T = TypeVar("T")
NAMES = ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "densenet201")
REPEATS = 21
THEIR_REPEATS = {"densenet121": 3, "densenet201": 1}  # half a minute a candidate
COLUMNS = (
    "network",
    "trace",
    "ranking, once",
    "ours",
    "torch-pruning: graph",
    "its ranking",
    "torch-pruning",
    "ratio",
    "its pruner",
    "ratio",
    "deepcopy of the result",
    "ours / deepcopy",
)


def main(names: list[str]) -> None:
    """Print a row of a markdown table per network."""
    header("materialising one random candidate, L1, CPU ms (median of n)")
    print("", f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|", sep="\n")
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for cells in pool.imap(row, names, chunksize=1):
            print(f"| {' | '.join(cells)} |", flush=True)


def row(name: str) -> list[str]:
    """A network's cells."""
    torch.set_num_threads(1)
    network = NETWORKS.get(name)
    model = network.build(network.num_classes).eval()
    x = torch.zeros(1, *network.input_shape)
    traced, architecture = timed(partial(trace, model, x), 5)
    rng = np.random.default_rng(0)
    widths = {g.name: max(1, int(g.width * rng.uniform(0.3, 1))) for g in architecture.free_groups}
    ranked, ranking = timed(partial(ranked_once, model, architecture, widths), 5)
    small = materialise(model, architecture, ranking.keep(widths))
    made, copied = in_turns(
        lambda: materialise(model, architecture, ranking.keep(widths)), partial(copy.deepcopy, small), REPEATS
    )
    n = THEIR_REPEATS.get(name, 5)
    built, _ = timed(partial(build_graph, model, x), 3)
    theirs, by_them = timed(partial(by_torch_pruning, model, x, architecture, widths), n)
    their_ranking, _ = timed(partial(lowest, model, architecture, widths), 5)
    with_pruner, by_pruner = timed(partial(by_their_pruner, model, x, architecture, widths), n)
    shapes = [[p.shape for p in m.parameters()] for m in (small, by_them, by_pruner)]
    same = shapes[0] == shapes[1] == shapes[2]
    return [
        name if same else f"{name} (shapes differ)",
        cell(traced, 5),
        cell(ranked, 5),
        cell(made, REPEATS),
        cell(built, 3),
        cell(their_ranking, 5),
        cell(theirs, n),
        f"{theirs / made:.1f}x",
        cell(with_pruner, n),
        f"{with_pruner / made:.1f}x",
        cell(copied, REPEATS),
        f"{made / copied:.2f}x",
    ]


def timed(action: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Seconds and result of an action; a single run is not warmed up."""
    start = time.process_time()
    result = action()
    return (time.process_time() - start if repeats == 1 else seconds(action, repeats)), result


def in_turns(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of two actions that alternate, after one round to warm up."""
    taken = [(timed(first, 1)[0], timed(second, 1)[0]) for _ in range(repeats + 1)][1:]
    return statistics.median(a for a, _ in taken), statistics.median(b for _, b in taken)


def cell(taken: float, repeats: int) -> str:
    """Milliseconds and how many runs they are the median of."""
    return f"{1e3 * taken:,.{0 if taken >= 0.1 else 1}f} (n={repeats})"


def ranked_once(model: nn.Module, architecture: Architecture, widths: dict[str, int]) -> Ranking:
    """A ranking that has scored every group."""
    ranking = Ranking(model, architecture, CRITERIA.get("l1"))
    ranking.keep(widths)
    return ranking


def build_graph(model: nn.Module, x: torch.Tensor) -> tp.DependencyGraph:
    """What torch-pruning does before it can cut."""
    return tp.DependencyGraph().build_dependency(model, example_inputs=x)


def lowest(model: nn.Module, architecture: Architecture, widths: dict[str, int]) -> dict[str, list[int]]:
    """The channels that fall away by the L1 norm of each group's first layer, by that layer's name."""
    drop = {}
    for name, width in widths.items():
        root = architecture.producers[name][0]
        weight = model.get_submodule(root).get_parameter("weight").detach()
        drop[root] = weight.flatten(1).abs().sum(1).argsort()[: len(weight) - width].tolist()
    return drop


def by_torch_pruning(model: nn.Module, x: torch.Tensor, architecture: Architecture, widths: dict[str, int]) -> nn.Module:
    """The same widths by torch-pruning: copy, build the graph, prune each group by its root layer."""
    copied = copy.deepcopy(model)
    graph = build_graph(copied, x)
    for root, positions in lowest(copied, architecture, widths).items():
        if positions:
            layer = copied.get_submodule(root)
            function = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
            graph.get_pruning_group(layer, function, idxs=positions).prune()
    return copied


def by_their_pruner(model: nn.Module, x: torch.Tensor, architecture: Architecture, widths: dict[str, int]) -> nn.Module:
    """The same widths by torch-pruning's pruner: a copy, a ratio per root layer, one step."""
    copied = copy.deepcopy(model)
    ratios = {}
    for name, width in widths.items():
        root = copied.get_submodule(architecture.producers[name][0])
        full = len(root.get_parameter("weight"))
        ratios[root] = 1 - (width + 0.5) / full if width < full else 0.0  # it keeps int(full * (1 - ratio))
    tp.pruner.BasePruner(
        copied,
        x,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    ).step()
    return copied


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
