"""Ray Tune's schedulers stop trials that lag behind, and only those of the search."""

from collections.abc import Mapping

import pytest

from automl_prune.execution import Connection, TuneExecutor
from automl_prune.execution.stopping import EarlyStop, Rule
from automl_prune.testing.executor import ScriptedSource
from automl_prune.trial import Glance, Outcome, Report, ReportingEvaluator, Trial, TrialState

GOOD = {0: 0.5, 1: 0.6, 2: 0.7, 3: 0.1, 4: 0.8, 5: 0.2, 6: 0.9}
"""How well trials do, all along their training."""


def evaluate(trial: Trial, report: Report | None = None) -> Outcome:
    assert report is not None
    rows: list[Mapping[str, float]] = []
    for eighths in (1, 2, 4) if trial.number in GOOD else ():
        rows.append({"eighths": eighths, "top1": GOOD[trial.number]})
        ended = Outcome(TrialState.STOPPED, cost={"images": 10.0 * eighths}, reason="behind", details={"reported": rows})
        if not report(Glance(eighths, {"top1": GOOD[trial.number]}, ended)):
            return ended
    return Outcome(TrialState.COMPLETE, {"top1": GOOD.get(trial.number, 0.0)}, details={"reported": rows})


def make() -> ReportingEvaluator:
    return evaluate


def run(rule: Rule, *, maximize: bool = True, seen: list[list[Mapping[str, float]]] | None = None) -> dict[int, Outcome]:
    source = ScriptedSource(9, generation=1)
    early = EarlyStop(rule, "top1", maximize=maximize, seen=seen or [])
    TuneExecutor("srch_0190abcdearly", workers=1, early_stop=early).run(source, make)
    assert [trial.number for trial, _ in source.completed] == list(range(9))
    return {trial.number: outcome for trial, outcome in source.completed}


def stopped(outcomes: dict[int, Outcome]) -> dict[int, float]:
    """Numbers of stopped trials, and the eighth at which they were."""
    found = {n: o for n, o in outcomes.items() if o.state is TrialState.STOPPED}
    assert all(not o.metrics and o.reason == "behind" and o.cost["images"] for o in found.values())
    return {n: o.details["reported"][-1]["eighths"] for n, o in found.items()}


def test_asha_keeps_the_better_half(local_ray: Connection) -> None:
    outcomes = run("asha")
    assert stopped(outcomes) == {3: 1, 5: 1}
    assert all(outcomes[n].state is TrialState.COMPLETE for n in (0, 1, 2, 4, 6, 7, 8)), "7 and 8 report nothing"


def test_the_median_rule_needs_three_others(local_ray: Connection) -> None:
    assert stopped(run("median")) == {3: 1, 5: 1}


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_what_was_seen_before_a_restart_counts(rule: Rule) -> None:
    seen = [[{"eighths": 1, "top1": top1}] for top1 in (0.6, 0.7, 0.8, 0.9)]
    scheduler = EarlyStop(rule, "top1", maximize=True, seen=seen).scheduler()
    for top1, decision in [(0.5, "STOP"), (0.95, "CONTINUE")]:
        trial = _Trial(f"t{top1}")
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        assert scheduler.on_trial_result(None, trial, {"eighths": 1, "glance": top1}) == decision  # type: ignore[arg-type]


def test_losses_are_minimised() -> None:
    seen = [[{"eighths": 1, "loss": loss}] for loss in (0.6, 0.7, 0.8)]
    scheduler = EarlyStop("asha", "loss", maximize=False, seen=seen).scheduler()
    trial = _Trial("t")
    scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    assert scheduler.on_trial_result(None, trial, {"eighths": 1, "glance": 0.9}) == "STOP"  # type: ignore[arg-type]


class _Trial:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
