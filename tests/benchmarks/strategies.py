"""Every strategy on CIFAR-10 at the same number of evaluations, with the same recipe and the same recovery.

    python tests/benchmarks/strategies.py --data DIR --weights DIR --out DIR [--jobs 2] [--strategies auto evolution …]

A *run* is one search with one seed: ResNet-20 or ResNet-56 at a part of its MACs, candidates with L1-inherited weights and
re-estimated batch-norm statistics, no training, scored on a part of the select split; the leaders are confirmed on all of
it, the best are recovered, and the best of these is scored on the report split, the official test images. The seed also
draws the splits, alike for all strategies. Runs of ``random`` carry the controls ``uniform`` and ``global``. A strategy is
named NAME or NAME:PRESET, and its own recipe is overridden: ``amc`` without reconstruction and ``netadapt`` without training
are not what their papers describe, and ``metapruning`` without its PruningNet is ``evolution``. With ``@own`` behind its
name a strategy has the recipe it was published with (``metapruning@own``); what that takes, the training of a PruningNet
too, is in the columns of its cost.

Each run is a process of its own with one thread, and does not import Ray. Finished runs are lines of ``runs.jsonl`` and are
not run again, so that the script can be stopped and started; failed ones are tried again. In the end ``table.md`` and the
plots are made of all lines that there are, whatever options they were run with: runs that differ in nothing but network,
budget, seed and strategy are a *setting*, which has a table and a plot of its own, ``plot-NETWORKS.svg``
(``strategies_table.py``).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.trial import Trial
from tests.benchmarks.strategies_table import OWN, plots, table

Json = dict[str, Any]

CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
RECIPE = {"inherit": "l1", "scope": "all", "reduction": "mean", "reconstruct": "none"}
STRATEGIES = ("sensitivity", "evolution", "abc", "optuna", "nsga2", "amc", "netadapt", "auto")
REFERENCE = "random"
"""Always run, first, with the other controls."""
PREPARATION, CONFIRM = "preparation", "confirm"
FOREVER = 1e9


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--strategies", nargs="+", default=list(STRATEGIES), metavar="NAME[:PRESET][@own]")
    add("--networks", nargs="+", default=list(CHECKPOINTS), choices=list(CHECKPOINTS))
    add("--budgets", nargs="+", type=float, default=[0.5, 0.3], help="parts of the full network's MACs")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--evaluations", type=int, default=60)
    add("--select-size", type=int, default=5000)
    add("--select-images", type=int, default=1250, help="of them, for each candidate; the leaders see all")
    add("--top-k", type=int, default=1, help="candidates that are recovered")
    add("--precision", choices=["float32", "bfloat16"], default="bfloat16", help="of forward passes, in recovery too")
    add("--report-size", type=int, default=10_000)
    add("--recovery-epochs", type=float, default=1.0, help="0: none")
    add("--recalibrate-batches", type=int, default=5, help="batches of 256 that re-estimate statistics")
    add("--fine-tune-steps", type=int, default=0, help="training batches of every candidate")
    add("--data", type=Path, required=True, help="folder that holds cifar-10-batches-bin")
    add("--weights", type=Path, required=True, help="folder of the checkpoints")
    add("--out", type=Path, default=Path("strategies-benchmark"))
    add("--jobs", type=int, default=1, help="runs at a time, one core each")
    add("--gpu", action="store_true", help="evaluate on a CUDA device; its runs are no rows beside those of a CPU")
    add("--execution", choices=["inline"], default="inline", help="each run evaluates its candidates one by one")
    add("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, then write the table and the plot."""
    options = arguments()
    if options.one:
        print(json.dumps(run_one(json.loads(options.one), options.data, options.weights)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "runs.jsonl"
    run_missing(orders(options), file, options)
    lines = finished(file)
    if not lines:
        sys.exit("No run was finished.")
    (options.out / "table.md").write_text(table(lines))
    for name, drawn in plots(lines).items():
        (options.out / name).write_text(drawn)
    print(table(lines))


def orders(options: argparse.Namespace) -> list[Json]:
    """All runs, cheap networks and the controls first."""
    names = list(dict.fromkeys([REFERENCE, *options.strategies]))
    shared = {
        "evaluations": options.evaluations, "select_size": options.select_size, "report_size": options.report_size,
        "recovery_epochs": options.recovery_epochs, "fine_tune_steps": options.fine_tune_steps,
        "recalibrate_batches": options.recalibrate_batches, "select_images": options.select_images,
        "top_k": options.top_k, "precision": options.precision, **({"device": "cuda"} if options.gpu else {}),
    }  # fmt: skip
    return [
        {"network": network, "budget": budget, "seed": seed, "strategy": name, **shared}
        for network in options.networks
        for seed in options.seeds
        for budget in options.budgets
        for name in names
    ]


def finished(file: Path) -> list[Json]:
    """The successful lines of a file, the last of equal orders; a line that was cut off does not count."""
    lines: dict[str, Json] = {}
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "error" not in line:
            lines[key_of(line["order"])] = line
    return list(lines.values())


def key_of(order: Json) -> str:
    """What tells orders apart."""
    return json.dumps(order, sort_keys=True)


def run_missing(wanted: list[Json], file: Path, options: argparse.Namespace) -> None:
    """Run each order that has no line yet, ``--jobs`` at a time, and append its line."""
    done = {key_of(line["order"]) for line in finished(file)}
    missing = [order for order in wanted if key_of(order) not in done]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there, {len(missing)} to go", file=sys.stderr)
    writing = threading.Lock()
    with ThreadPoolExecutor(options.jobs) as pool:
        for count, future in enumerate(as_completed([pool.submit(in_process, order, options) for order in missing]), 1):
            line = future.result()
            with writing, file.open("a") as stream:
                stream.write("\n" * (stream.tell() > 0 and not ends_with_newline(file)) + json.dumps(line) + "\n")
            order, said = line["order"], line.get("error") or f"{line['row']['report']:.4f} in {line['wall_seconds']:.0f} s"
            name = f"{order['network']} {order['budget']:g} {order['strategy']} seed {order['seed']}"
            print(f"{count}/{len(missing)} {name}: {said}", file=sys.stderr, flush=True)


def ends_with_newline(file: Path) -> bool:
    """Whether the last line is whole; one that was cut off must not swallow the next."""
    return file.read_bytes().endswith(b"\n")


def in_process(order: Json, options: argparse.Namespace) -> Json:
    """The line of one run, from a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(order)]
    command += ["--data", str(options.data), "--weights", str(options.weights)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | ({} if options.gpu else {"CUDA_VISIBLE_DEVICES": ""})
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        return {"order": order, "error": lines[-1] if lines else f"exit code {ended.returncode}"}
    line: Json = json.loads(ended.stdout.splitlines()[-1])
    return line


def spec_of(order: Json) -> Json:
    """The SearchSpec of a run."""
    named, own, _ = order["strategy"].partition(OWN)
    name, _, preset = named.partition(":")
    recovers = order["recovery_epochs"] > 0
    alike = {
        **RECIPE, "recalibrate_batches": order["recalibrate_batches"],
        "fine_tune": {"steps": order["fine_tune_steps"], "epochs": 0.0},
    }  # fmt: skip
    return {
        "seed": order["seed"],
        "search_space": {"name": order["network"], "preset": "published"},
        "weights": CHECKPOINTS[order["network"]],
        "dataset": {"name": "cifar10", "select_size": order["select_size"], "report_size": order["report_size"]},
        "strategy": {"name": name, "preset": preset or None},
        "budgets": [{"metric": "macs", "max_ratio": order["budget"]}],
        "recipe": {
            "select_images": order["select_images"], "precision": order["precision"], **({} if own else alike),
        },
        "controls": ["uniform", "global"] if order["strategy"] == REFERENCE else [],
        "finish": {
            "top_k": order["top_k"], "recovery": "fine_tune" if recovers else "none",
            "epochs": order["recovery_epochs"], "lr": 0.01,
        },
        "trials": {"max": order["evaluations"], "parallel": 1},
        "execution": "inline",
        "resources": {"gpu": int(order.get("device") == "cuda")},
    }  # fmt: skip


def run_one(order: Json, data: Path, weights: Path) -> Json:
    """Run one search in this process; its line."""
    import torch

    from automl_prune.execution.inline import InlineExecutor
    from automl_prune.loop.plan import Roots, make_plan
    from automl_prune.loop.run import run_search
    from automl_prune.loop.spec import SearchSpec
    from automl_prune.storage.memory import MemoryStore

    torch.set_num_threads(1)
    started = time.perf_counter()
    spec, store = SearchSpec.parse(spec_of(order)), MemoryStore()
    with tempfile.TemporaryDirectory(prefix="strategies-") as folder:
        plan = make_plan(spec, Roots(data=data, weights=weights, cache=Path(folder) / "cache"))
        store.add_search(spec.model_dump(mode="json"), name=None, labels={})
        job = store.claim(lease_seconds=FOREVER)
        assert job is not None
        result = run_search(plan, job, store, InlineExecutor(), Path(folder) / "artifacts").result
        trials = [recorded.trial for recorded in store.trials(job.id)]
    assert result is not None
    assert "ray" not in sys.modules
    line = line_of(order, result, trials)
    return line | {"process_cpu_seconds": time.process_time(), "wall_seconds": time.perf_counter() - started}


def line_of(order: Json, result: Mapping[str, Any], trials: Sequence[Trial]) -> Json:
    """What is kept of a result: scores and costs of the strategy's own network and of the controls'."""
    own = spent(trials, "search", PREPARATION)
    return {
        "order": order,
        "base": {"select": result["base_metrics"]["select"]["top1"], "report": result["base_metrics"]["top1"]},
        "row": row_of(result["metrics"], own) | {"evaluations": sum(t.arm == "search" for t in trials)},
        "controls": {name: row_of(row, spent(trials, name)) for name, row in result["controls"].items()},
        "splits": {part: result["splits"][part]["sha256"] for part in ("fit", "select", "report")},
        "options": result["provenance"]["options"],
        "versions": result["provenance"]["versions"],
    }


def spent(trials: Sequence[Trial], *arms: str) -> dict[str, float]:
    """What arms took, confirming their leaders too, which is no evaluation of its own."""
    own = [t for t in trials if (t.origin["arm"] if t.arm.startswith(CONFIRM) else t.arm) in arms]
    costs = [t.outcome.cost for t in own if t.outcome]
    sums = {key: sum(cost.get(key, 0.0) for cost in costs) for key in ("images", "cpu_seconds")}
    return sums | {"evaluations": float(sum(t.arm in arms for t in own))}


def row_of(scores: Mapping[str, Any], spent: Mapping[str, float]) -> Json:
    """Scores of one network before and after recovery, and what its search took."""
    return {
        "searched": scores["search"]["top1"],
        "select": scores["select_before_recovery"]["top1"],
        "select_recovered": scores["select"]["top1"],
        "report_before": scores["top1_before_recovery"],
        "report": scores["top1"],
        "macs": scores["macs"],
        "evaluations": spent["evaluations"],
        "images": spent["images"],
        "cpu_seconds": spent["cpu_seconds"],
    }


if __name__ == "__main__":
    main()
