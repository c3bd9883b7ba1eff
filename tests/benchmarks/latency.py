"""Predicted against measured latency: errors of tables, their making, repeatability, and what a budget in ms is worth.

    python tests/benchmarks/latency.py --out DIR check   [--networks resnet56 …] [--runtimes torch onnxruntime]
    python tests/benchmarks/latency.py --out DIR repeat  [--times 20] [--minutes 10]
    python tests/benchmarks/latency.py --out DIR budgets --data DIR --weights DIR [--max-ratio 0.6] [--evaluations 40]

``check`` builds the tables of a network on this machine with one thread, or on its GPU, and compares predictions with
measurements of 30 random networks that nothing was fitted to. ``repeat`` measures one candidate again and again. ``budgets``
searches ResNet-56 once under a latency budget and once under a MAC budget of the same relative size, and measures both
winners. What was timed is kept below ``--out`` and not timed again; ratios are to the full network, in the same run.
"""

import argparse
import hashlib
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from automl_prune.latency.building import build, full_network
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import LocalDevice
from automl_prune.latency.gauge import Gauge
from automl_prune.latency.model import Check
from automl_prune.latency.sampling import random_candidates
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.loop.fresh import time_afresh
from automl_prune.networks import NETWORKS
from automl_prune.problem import Budget
from automl_prune.space import ChannelSpace

CHECKS = 30
QUERIES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", choices=["check", "repeat", "budgets"])
    add("--out", type=Path, required=True)
    add("--networks", nargs="+", default=["resnet56", "mobilenet_v2", "resnet18"])
    add("--runtimes", nargs="+", default=["torch", "onnxruntime"])
    add("--batch", type=int, default=1, help="images at a time; on a GPU (--runtimes torch-cuda) 64, say")
    add("--round-to", type=int, default=1)
    add("--seed", type=int, default=1, help="of the networks that predictions are checked on")
    add("--times", type=int, default=20)
    add("--minutes", type=float, default=10)
    add("--data", type=Path)
    add("--weights", type=Path)
    add("--max-ratio", type=float, default=0.6)
    add("--evaluations", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"check": check, "repeat": repeat, "budgets": budgets}[options.part](options)


def gauge_of(name: str, runtime: str, options: argparse.Namespace, min_ratio: float = 0.1) -> tuple[Gauge, TracedNetwork]:
    """A network of the default number of classes on this machine."""
    classes = NETWORKS.get(name).num_classes
    network = TracedNetwork.registered(name, classes)
    space = ChannelSpace.of(network.architecture, round_to=options.round_to, min_ratio=min_ratio)
    whole = full_network(name, classes, network.architecture)
    device = LocalDevice({name: network}, lock=options.out / "local.lock")
    return Gauge(device, Conditions(runtime, batch=options.batch), whole, space, options.out / "times"), network


def check(options: argparse.Namespace) -> None:
    """Parts (a) and (c)."""
    print("| network, runtime | full, ms | MAPE | worst | R² | Spearman | timed | building, s | predictions/s |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in options.networks:
        for runtime in options.runtimes:
            gauge, network = gauge_of(name, runtime, options)
            started, new = time.perf_counter(), itertools.count()
            found = build(gauge, network.architecture, progress=lambda done, of, new=new: next(new))  # type: ignore[misc]
            seconds, timed = time.perf_counter() - started, next(new)
            fresh = random_candidates(gauge.space, CHECKS, options.seed)
            checked = Check.of(found.model(gauge.space.array(fresh)), gauge.measure(fresh))
            widths = gauge.space.array(random_candidates(gauge.space, QUERIES, seed=2))
            found.model(widths[:10])  # tables are spread out once
            asked = time.perf_counter()
            found.model(widths)
            rate = len(widths) / (time.perf_counter() - asked)
            everything = found.about["timed"] - 1  # the full network is timed before the rest
            took = f"{seconds:.0f}" if timed >= everything else f"({seconds:.0f} for {timed})"
            print(
                f"| {name}, {runtime} | {found.full_ms:.2f} | {checked.mape:.1%} | {checked.worst:.1%} | {checked.r2:.3f} | "
                f"{checked.rank_correlation:.3f} | {found.about['timed']} | {took} | {rate:,.0f} |",
                flush=True,
            )


def repeat(options: argparse.Namespace) -> None:
    """Part (d): a candidate timed as leaders are that come near a budget."""
    for runtime in options.runtimes:
        gauge, _ = gauge_of(options.networks[0], runtime, options)
        candidate = random_candidates(gauge.space, 1, seed=3)[0]
        near = Budget("latency_ms", max=gauge.afresh(candidate).ratio)
        found = []
        for _ in range(options.times):
            found.append(time_afresh(gauge, candidate, near, full_ms=1.0))
            print(
                f"ratio {found[-1].timing.ratio:.4f} ± {found[-1].error:.1%}, settled: {found[-1].timing.settled}",
                flush=True,
            )
            time.sleep(options.minutes * 60 / options.times)
        ratios, ms = [one.timing.ratio for one in found], [one.timing.ms for one in found]
        print(
            f"{options.networks[0]}, {runtime}: ratio {statistics.mean(ratios):.4f}, coefficient of variation "
            f"{statistics.stdev(ratios) / statistics.mean(ratios):.2%} of the ratio, "
            f"{statistics.stdev(ms) / statistics.mean(ms):.2%} of the milliseconds; n = {options.times}",
            flush=True,
        )


def budgets(options: argparse.Namespace) -> None:
    """Part (b). The search under a MAC budget knows of no runtime, so that there is one for all."""
    for runtime in options.runtimes:
        gauge, network = gauge_of("resnet56", runtime, options, min_ratio=0.0)
        full = {g.name: g.width for g in network.architecture.free_groups}
        for metric in ("latency_ms", "macs"):
            result = searched(metric, runtime, options)
            found = {g["name"]: g["width"] for g in result["groups"] if g["frozen"] is None}
            fresh = time_afresh(gauge, gauge.space.candidate(full | found), Budget("latency_ms", max=options.max_ratio), 1.0)
            row, base = result["metrics"], result["base_metrics"]
            timing = f"{fresh.timing.ratio:.1%} of the full network (± {fresh.error:.1%}, settled: {fresh.timing.settled})"
            print(
                f"{runtime}, budget {metric} ≤ {options.max_ratio:.0%}: latency {timing}, MACs "
                f"{row['macs'] / base['macs']:.1%}, report top-1 {row['top1']:.2%}",
                flush=True,
            )


def searched(metric: str, runtime: str, options: argparse.Namespace) -> Any:
    """The result of one search; it is kept, and not searched for again."""
    from automl_prune.execution.inline import InlineExecutor
    from automl_prune.loop.plan import Roots, make_plan
    from automl_prune.loop.run import run_search
    from automl_prune.loop.spec import SearchSpec
    from automl_prune.storage.memory import MemoryStore

    order = {
        "search_space": {"name": "resnet56", "preset": "published", "round_to": options.round_to},
        "weights": "resnet56-4bfd9763.th",
        "dataset": {"name": "cifar10", "select_size": 3000, "report_size": 5000},
        "strategy": {"name": "auto"},
        "budgets": [{"metric": metric, "max_ratio": options.max_ratio}],
        "latency": {"runtime": runtime, "batch": options.batch} if metric == "latency_ms" else {"runtime": "torch"},
        "recipe": {"inherit": "l1", "recalibrate_batches": 3, "select_images": 750, "fine_tune": {"steps": 0}},
        "controls": [],
        "finish": {"top_k": 1, "recovery": "fine_tune", "epochs": 0.15, "lr": 0.01},
        "trials": {"max": options.evaluations},
        "execution": "inline",
    }
    file = options.out / f"result-{hashlib.sha256(json.dumps(order).encode()).hexdigest()[:12]}.json"
    if not file.exists():
        spec, store = SearchSpec.parse(order), MemoryStore()
        with tempfile.TemporaryDirectory(prefix="latency-") as folder:
            plan = make_plan(spec, Roots(data=options.data, weights=options.weights, cache=options.out / "cache"))
            store.add_search(spec.model_dump(mode="json"), name=None, labels={})
            job = store.claim(lease_seconds=1e9)
            assert job is not None
            file.write_text(json.dumps(run_search(plan, job, store, InlineExecutor(), Path(folder)).result))
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
