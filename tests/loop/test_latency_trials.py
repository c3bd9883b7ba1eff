"""Trials of a search under latency budgets: which devices time them, what they cost, and which of them count."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.latency.cost import metric_on
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.work import NetworkWork
from automl_prune.loop.job import SearchState
from automl_prune.loop.measured import MEASURED_ARMS
from automl_prune.loop.standing import SEARCH
from automl_prune.trial import Outcome, Report, Trial, TrialState
from tests.latency.clockwork import Clockwork
from tests.loop.test_latencies import ORDER, PRUNING_NET, Balking, plan_of, run


@pytest.fixture(scope="module")
def network() -> TracedNetwork:
    return TracedNetwork.registered("digits_resnet", 10)


def test_where_one_device_is_doubted_the_others_time_leaders_alone(network: TracedNetwork, tmp_path: Path) -> None:
    """A device that is trusted holds no candidate up, and fails none that it cannot time before that is a leader."""
    trusted, doubted = Balking("trusted", network), Clockwork("doubted", network, fault=(1.0, 1.6, 0.6))
    budgets = [{"metric": "latency_ms", "max_ratio": 0.9, "device": d.name} for d in (trusted, doubted)]
    plan = plan_of(ORDER | {"budgets": budgets, "trials": {"max": 16}, "controls": []}, tmp_path, trusted, doubted)
    assert plan.latencies is not None
    assert plan.latencies.doubted == ["doubted"]
    trusted.balks = lambda work: isinstance(work, NetworkWork) and sum(w for _, w in work.widths) % 4 == 0
    before = len(trusted.asked)
    job, trials = run(plan, tmp_path)
    assert job.state is SearchState.SUCCEEDED
    assert not [t for t in trials if t.state is TrialState.FAILED]
    searched = {t.candidate for t in trials if t.arm in MEASURED_ARMS}
    assert all(map(plan.latencies.gauges["doubted"].is_known, searched))
    assert 0 < len(trusted.asked) - before < len(searched) / 2
    assert all(metric_on("trusted") in t.metrics for t in trials if t.state is TrialState.COMPLETE)


def test_how_far_off_a_search_was_is_said_though_not_every_device_measured(network: TracedNetwork, tmp_path: Path) -> None:
    trusted, doubted = Clockwork("trusted", network), Clockwork("doubted", network, fault=(1.0, 1.6, 0.6))
    budgets = [{"metric": "latency_ms", "max_ratio": 0.9, "device": d.name} for d in (trusted, doubted)]
    plan = plan_of(ORDER | {"budgets": budgets, "controls": []}, tmp_path, trusted, doubted)
    doubted.fault, before = (9.0,), len(trusted.asked)
    with pytest.raises(EvaluationError, match=r"None of the 8 candidates .* ms on 'doubted'; the budget is at most"):
        run(plan, tmp_path)
    assert len(trusted.asked) == before


@pytest.mark.parametrize(
    ("strategy", "preset", "scaled"),
    [
        ("evolution", "published", set()),
        ("evolution", "published_resnet", {"random"}),  # which draws wide networks only, all of them over this budget
        pytest.param("metapruning", "published", set(), marks=pytest.mark.slow),
    ],
)
def test_presets_that_reject_draw_again_what_takes_too_long(
    strategy: str, preset: str, scaled: set[str], network: TracedNetwork, tmp_path: Path
) -> None:
    """Only where no draw is within the budget, one is scaled into it; children never are."""
    clock = Clockwork("clock", network)
    told = {"name": strategy, "preset": preset, "options": {"population": 4}}
    order = ORDER | {"strategy": told, "trials": {"max": 16}, "controls": []}
    plan = plan_of(order | (PRUNING_NET if strategy == "metapruning" else {}), tmp_path, clock)
    assert plan.latencies is not None
    gauge, most = plan.latencies.gauges["clock"], plan.latencies.budgets["clock"].max
    job, trials = run(plan, tmp_path)
    searched = [t for t in trials if t.arm == SEARCH]
    assert {t.origin["operator"] for t in searched} == {"random", "mutation", "crossover"}
    assert {t.origin["operator"] for t in searched if t.repaired} == scaled
    assert max(t.metrics[metric_on("clock")] for t in searched) <= plan.problem.budgets[0].max
    assert job.result is not None
    winner = next(t.candidate for t in trials if t.number == job.result["trial"])
    really = clock.network_ms(gauge.work(winner))
    assert really <= most
    assert job.result["metrics"]["latency_ms"] == {"clock": pytest.approx(really, rel=1e-6)}


class Halting(CandidateEvaluator):
    """Stops every other trial of the search, as a scheduler does with those that lag behind."""

    def __call__(self, trial: Trial, report: Report | None = None) -> Outcome:
        if trial.arm == SEARCH and trial.number % 2 == 0:
            return Outcome(TrialState.STOPPED, reason="after 1 of 8 training steps")
        return super().__call__(trial, report)


SMALL_EVOLUTION = {"name": "evolution", "options": {"population": 3}}


@pytest.mark.parametrize("fault", [(1.0,), (1.0, 1.6, 0.6)])
def test_stopped_trials_have_costs_and_no_say(fault: Sequence[float], network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network, fault=fault)
    plan = plan_of(ORDER | {"strategy": SMALL_EVOLUTION, "trials": {"max": 12}}, tmp_path, clock)
    assert plan.latencies is not None
    job, trials = run(plan, tmp_path, Halting)
    stopped = [t for t in trials if t.state is TrialState.STOPPED]
    assert stopped
    for trial in stopped:
        taken = plan.latencies.predict(trial.candidate)
        taken |= plan.latencies.measure(trial.candidate, plan.latencies.doubted)
        assert trial.metrics == plan.problem.costs(trial.candidate) | {metric_on("clock"): taken["clock"]}
    numbers = {t.number for t in stopped}
    assert job.result is not None
    assert job.result["trial"] not in numbers
    assert not numbers & {t.origin["of"] for t in trials if t.arm == "final"}
    parents = {ask for t in trials if t.arm == SEARCH for ask in t.origin["parents"]}
    assert parents
    assert not parents & {t.origin["ask"] for t in stopped}
