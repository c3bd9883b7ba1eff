"""Does a PruningNet rank networks as training them from scratch does? CIFAR-10, one core, by hand:

    python tests/benchmarks/pruning_net.py --data /path/to/data --home /path/for/results [--networks 20] [--repeats 2]

Kendall's tau between the scores of random networks with made weights and with weights of their own (MP-5), beside that of
ABCPruner's fitness (inherited convolutions, trained briefly) and of the number of channels alone. Training from scratch is
repeated with other images and another order and averaged, because it is noisy itself: tau between two repeats says how much
there is to be seen. What was measured is kept in ``--home``, so a run that was stopped goes on where it was.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.setup import HYPERNETWORK, PREPARES
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.trial import Trial
from search_spaces.cifar_resnet import CifarResNet

RESNET8 = NetworkDefinition("resnet8", lambda classes: CifarResNet(1, classes), (3, 32, 32), 10)
"""One block per stage: six groups."""

RECIPES: dict[str, dict[str, Any]] = {
    "made": {},
    "scratch": {"inherit": "scratch", "fine_tune": {"lr": 0.1}},
    "abc": {"inherit": "random", "scope": "convolutions", "fine_tune": {"epochs": 1, "lr": 0.1}},
}


def evaluator(arguments: argparse.Namespace, recipe: dict[str, Any], seed: int = 0) -> CandidateEvaluator:
    order: dict[str, Any] = {
        "search_space": {"name": arguments.network, "preset": arguments.preset, "min_ratio": 0.1},
        "dataset": {"name": "cifar10", "select_size": 5000, "fit_size": arguments.fit, "batch_size": 64},
        "base_training": {"epochs": 3},
        "strategy": {"name": "metapruning"},
        "recipe": {"hypernetwork": {"epochs": arguments.epochs, "lr": arguments.lr}, **recipe},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
        "seed": seed,
    }
    roots = Roots(data=arguments.data, weights=arguments.home / "weights", cache=arguments.home / "cache")
    if recipe.get("inherit") == "scratch":
        order["recipe"]["fine_tune"] = recipe["fine_tune"] | {"epochs": arguments.scratch_epochs}
    plan = make_plan(SearchSpec.parse(order), roots)
    return CandidateEvaluator(plan.setup(arguments.home / "artifacts"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--preset")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--fit", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10, help="of the PruningNet")
    parser.add_argument("--scratch-epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    NETWORKS.add("resnet8", RESNET8)
    made = evaluator(arguments, {})
    full = made.setup.space.full
    began = time.perf_counter()
    print("full network:", dict(made(Trial(0, full, arm="preparation")).details))
    print("PruningNet:", dict(made(Trial(1, full, arm="preparation", origin={PREPARES: HYPERNETWORK})).metrics))
    print(f"base: {made(Trial(2, full, arm='base')).metrics['top1']:.4f}, {time.perf_counter() - began:.0f} s")
    rng = np.random.default_rng(1)
    drawn = [made.setup.space.snap([rng.choice(c) for c in made.setup.space.choices]) for _ in range(arguments.networks)]
    networks = [c.widths for c in drawn]
    repeats = [measured(arguments, "scratch", networks, seed) for seed in range(arguments.repeats)]
    scores = {name: measured(arguments, name, networks) for name in RECIPES if name != "scratch"}
    scores["scratch"] = np.mean(repeats, axis=0).tolist()
    channels = [float(sum(c.widths)) for c in drawn]
    for name, found in scores.items():
        print(f"{name:8} top-1 {np.mean(found):.4f} ± {np.std(found):.4f}, {min(found):.4f} to {max(found):.4f}")
    for one, other in itertools.combinations(repeats, 2):
        print(f"Kendall's tau of training from scratch with itself: {kendalltau(one, other).statistic:.3f}")
    for name, found in {**scores, "channels": channels}.items():
        if name != "scratch":
            tau = kendalltau(found, scores["scratch"])
            print(f"Kendall's tau of {name} with training from scratch: {tau.statistic:.3f} (p {tau.pvalue:.4f})")


def measured(arguments: argparse.Namespace, name: str, networks: list[tuple[int, ...]], seed: int = 0) -> list[float]:
    """Top-1 on the select split of every network, made by one recipe."""
    evaluate = evaluator(arguments, RECIPES[name], seed)
    file = arguments.home / (f"{name}-{seed}.json" if seed else f"{name}.json")
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    for number, widths in enumerate(networks):
        key = " ".join(map(str, widths))
        if key not in known:
            candidate = evaluate.setup.space.snap(widths)
            known[key] = evaluate(Trial(number, candidate)).metrics["top1"]
            file.write_text(json.dumps(known))
    return [known[" ".join(map(str, widths))] for widths in networks]


if __name__ == "__main__":
    main()
