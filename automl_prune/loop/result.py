"""The answer to a search: the best architecture as JSON, with its evidence. Names are a contract with clients."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
import torch

from automl_prune.architecture import Architecture
from automl_prune.costs import CONVENTION
from automl_prune.errors import EvaluationError
from automl_prune.evaluation.setup import NOT_RECONSTRUCTED
from automl_prune.loop.arms import CONTROLS, FINAL, REPORT, measured_before
from automl_prune.loop.budgets import budget_json
from automl_prune.loop.job import StoredTrial
from automl_prune.loop.measured import Latencies, drop_flat
from automl_prune.loop.plan import Plan
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.surgery.slicing import kept_channels
from automl_prune.trial import Trial, TrialState

SCHEMA_VERSION = 1
SEEN_NOTE = (
    "The select split is a part of the official training images, and the given weights may have been trained on it: search "
    "scores may be too high, all of them alike. The report split is not affected."
)
_SCORES = ("top1", "top1_standard_error", "top5", "loss")


def build_result(
    plan: Plan, search_id: str, trials: Sequence[Trial], *, seconds: float, executor: Mapping[str, Any]
) -> dict[str, Any]:
    """The architecture JSON of a finished search, without its artifacts.

    Args:
        plan: The order.
        search_id: The search.
        trials: All that ended.
        seconds: From its start to now.
        executor: What :func:`executor_cost` found.

    Raises:
        EvaluationError: No candidate could be scored and recovered.
    """
    reports = {t.origin["arm"]: t for t in trials if t.arm == REPORT and t.state is TrialState.COMPLETE}
    if SEARCH not in reports:
        raise EvaluationError(_why_none(plan, trials))
    rows = {arm: _row(trials, report, plan.latencies) for arm, report in reports.items() if arm != BASE}
    final = _by_number(trials, int(reports[SEARCH].origin["final"]))
    kept = final.outcome.details["kept"] if final.outcome else {}
    strategy = plan.make_strategy()
    return {
        "schema_version": SCHEMA_VERSION,
        "search_id": search_id,
        "trial": int(reports[SEARCH].origin["of"]),
        "model": {
            "search_space": plan.network.name,
            "input_shape": list(plan.network.input_shape),
            "num_classes": plan.num_classes,
        },
        **architecture_parts(plan.architecture, kept),
        "metrics": rows[SEARCH],
        "base_metrics": _base_row(trials, reports.get(BASE), plan.latencies),
        "controls": {arm: rows[arm] for arm in CONTROLS if arm in rows},
        "budgets": [budget_json(b) for b in plan.ordered],
        **({"latency": plan.latencies.describe()} if plan.latencies else {}),
        "splits": plan.images.describe() | {"select_seen_by_weights": SEEN_NOTE if plan.spec.weights is not None else None},
        "recovery": plan.spec.finish.model_dump(mode="json") | {"candidates": _recovered(trials)},
        "provenance": {
            "strategy": plan.spec.strategy.name,
            "preset": plan.spec.strategy.preset or type(strategy).default_preset,
            "options": strategy.options.model_dump(mode="json"),
            "seed": plan.spec.seed,
            "objective": plan.spec.objective,
            "recipe": plan.recipe.model_dump(mode="json"),
            **({NOT_RECONSTRUCTED: left} if (left := _left_out(final)) else {}),
            "weights": plan.spec.weights,
            "versions": {
                "automl_prune": version("automl-prune"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "convention": CONVENTION,
            "search_cost": search_cost(trials)
            | {
                "measured_before": len(measured_before(trials)),
                "wall_seconds": seconds,
                "executor": dict(executor),
            },
        },
        "artifacts": [],
    }


def architecture_parts(architecture: Architecture, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """``channels``, ``groups`` and ``kept_channels`` of a network whose groups keep these units."""
    keep = architecture.keep(kept)
    channels = {}
    for layer in architecture.layers:
        for axis in architecture.tensor[layer.weight].axes:
            if axis.role == "out":
                channels[layer.name] = int(keep[architecture.axis_ids[layer.weight, axis.dim]].sum())
    return {
        "channels": channels,
        "groups": [
            {
                "name": g.name,
                "width": int(np.sum(keep[g.start : g.start + g.units])) * g.divisor,
                "full_width": g.width,
                "members": list(g.members),
                "frozen": g.frozen,
                "kept": None if g.name not in kept else [int(u) for u in kept[g.name]],
            }
            for g in architecture.groups
        ],
        "kept_channels": kept_channels(architecture, kept),
    }


def search_cost(trials: Sequence[Trial]) -> dict[str, Any]:
    """Evaluations, images, wall and CPU seconds spent, by arm and in total."""
    by_arm: dict[str, dict[str, float]] = {}
    for trial in trials:
        spent = by_arm.setdefault(trial.arm, {"evaluations": 0, "images": 0.0, "seconds": 0.0, "cpu_seconds": 0.0})
        spent["evaluations"] += 1
        for name in ("images", "seconds", "cpu_seconds"):
            spent[name] += trial.outcome.cost.get(name, 0.0) if trial.outcome else 0.0
    total = {key: sum(arm[key] for arm in by_arm.values()) for key in ("evaluations", "images", "seconds", "cpu_seconds")}
    return total | {"by_arm": by_arm}


def executor_cost(trials: Sequence[StoredTrial], executor: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluating took besides the evaluations themselves: handing trials over, waiting for a worker, recording.

    Known from the store, so that trials of earlier drivers count alike; those without times are left out.

    Args:
        trials: Of the search.
        executor: The description of the one that ended it.
    """
    took = [trial.overhead for trial in trials if trial.overhead is not None]
    return {
        "kind": executor.get("kind"),
        "workers": executor.get("workers"),
        "trials": len(took),
        "overhead_seconds": sum(took),
        "median_overhead_seconds": median(took) if took else None,
    }


def _left_out(final: Trial) -> list[str]:
    """Layers of the network that were to be reconstructed and could not be."""
    return list(final.outcome.details.get(NOT_RECONSTRUCTED, ())) if final.outcome else []


def _row(trials: Sequence[Trial], report: Trial, latencies: Latencies | None) -> dict[str, Any]:
    """Report scores after recovery, with what led to them: the row of one network in the results table."""
    final, searched = (_by_number(trials, int(report.origin[key])) for key in ("final", "of"))
    before_report = report.outcome.details["before"] if report.outcome else {}
    before_select = final.outcome.details["before"] if final.outcome else {}
    return {
        **drop_flat(report.metrics),
        **(latencies.row(report.candidate) if latencies else {}),
        **{f"{s}_before_recovery": before_report[s] for s in _SCORES if s in before_report},
        "search": {s: searched.metrics[s] for s in _SCORES if s in searched.metrics},
        "select_before_recovery": {s: before_select[s] for s in _SCORES if s in before_select},
        "select": {s: final.metrics[s] for s in _SCORES if s in final.metrics},
        "trial": searched.number,
    }


def _base_row(trials: Sequence[Trial], report: Trial | None, latencies: Latencies | None) -> dict[str, Any]:
    base = next(t for t in trials if t.arm == BASE)
    measured = latencies.row(base.candidate) if latencies else {}
    select = {s: base.metrics[s] for s in _SCORES if s in base.metrics}
    return {**drop_flat({**base.metrics, **(report.metrics if report else {})}), **measured, "select": select}


def _recovered(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Every recovered candidate: which trial it was, and its select scores after recovery."""
    return [
        {"trial": t.origin["of"], "arm": t.origin["arm"], "state": t.state.value, "select": dict(t.metrics)}
        for t in trials
        if t.arm == FINAL
    ]


def _by_number(trials: Sequence[Trial], number: int) -> Trial:
    return next(t for t in trials if t.number == number)


def _why_none(plan: Plan, trials: Sequence[Trial]) -> str:
    recovered = [t.candidate for t in trials if t.arm == FINAL and t.origin["arm"] == SEARCH]
    tried = [t.candidate for t in trials if t.arm == SEARCH and t.state in (TrialState.COMPLETE, TrialState.INFEASIBLE)]
    if plan.latencies and (said := plan.latencies.why_none(recovered) or plan.latencies.why_none(tried)):
        return said
    failed = [t for t in trials if t.arm in (SEARCH, FINAL) and t.state is TrialState.FAILED and t.outcome]
    if failed and failed[-1].outcome:
        return f"No candidate could be scored and recovered; {failed[-1].name} failed: {failed[-1].outcome.reason}"
    scored = [t for t in trials if t.arm == SEARCH and t.state is TrialState.COMPLETE]
    if scored and not any(plan.problem.meets(t.candidate, t.metrics) for t in scored):
        return (
            f"The search ended before it reached the budgets: {plan.spec.strategy.name!r} had scored {len(scored)} "
            f"candidates, none within them, as it comes to smaller ones only in time. Raise trials.max_seconds, "
            f"or trials.max, or let it take larger steps."
        )
    stopped = sum(t.arm == SEARCH and t.state is TrialState.STOPPED for t in trials)
    if stopped:
        return f"All of the {stopped} candidates that were evaluated were stopped early; raise trials.max."
    return "No candidate was evaluated within the search's limits; raise trials.max or trials.max_seconds."
