"""Searches under latency budgets: predicted while searching, measured before anything is called a success."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automl_prune.errors import (
    BudgetError,
    DeviceError,
    EvaluationError,
    MeasurementError,
    SpecError,
    UnknownNameError,
    UserError,
)
from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.setup import EvaluationSetup, Given
from automl_prune.execution.inline import InlineExecutor
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.cost import metric_on
from automl_prune.latency.devices import Device, OnTiming
from automl_prune.latency.sampling import random_candidates
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.loop.job import EventKind, SearchJob, SearchState
from automl_prune.loop.measured import MEASURED_ARMS, MOST_MEASURED
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NetworkDefinition
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies._walk import Walk
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import Evaluator, Outcome, Trial, TrialState
from tests.latency.clockwork import Clockwork

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 2},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "latency_ms", "max_ratio": 0.6, "device": "clock"}],
    "recipe": {"inherit": "l1", "recalibrate_batches": 1, "fine_tune": {"steps": 0}, "reconstruct": "none"},
    "base_training": {"epochs": 1},
    "trials": {"max": 8},
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}


@pytest.fixture(scope="module")
def network() -> TracedNetwork:
    return TracedNetwork.registered("digits_resnet", 10)


def lookup(*devices: Clockwork) -> Callable[[str], Device]:
    by_name: Mapping[str, Device] = {device.name: device for device in devices}

    def find(name: str) -> Device:
        if name not in by_name:
            raise DeviceError(f"No device is called {name!r}; known: {', '.join(by_name)}.")
        return by_name[name]

    return find


def plan_of(order: Mapping[str, Any], folder: Path, *devices: Clockwork, now: bool = True) -> Plan:
    roots = Roots(folder / "data", folder / "weights", folder / "cache")
    return make_plan(SearchSpec.parse(order), roots, devices=lookup(*devices), fetch=now)


def run(
    plan: Plan,
    folder: Path,
    make_evaluator: Callable[[EvaluationSetup], Evaluator] | None = None,
    *,
    store: MemoryStore | None = None,
) -> tuple[SearchJob, list[Trial]]:
    store = store or MemoryStore()
    store.add_search(plan.spec.model_dump(mode="json"), name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    options = {"make_evaluator": make_evaluator} if make_evaluator else {}
    ended = run_search(plan, job, store, InlineExecutor(), folder / "artifacts", **options)  # type: ignore[arg-type]
    return ended, [stored.trial for stored in store.trials(job.id)]


QUICK = ("amc", "auto", "evolution", "netadapt")
PRUNING_NET: dict[str, Any] = {
    "recipe": {"recalibrate_batches": 1, "hypernetwork": {"epochs": 4, "lr": 0.3, "least_ratio": 0.0}},
    "finish": {"top_k": 1, "recovery": "scratch", "epochs": 1},
}
"""What metapruning needs instead of weights of the full network: weights for any widths."""


@pytest.mark.parametrize(
    "strategy", [*QUICK, *(pytest.param(s, marks=pytest.mark.slow) for s in sorted({*STRATEGIES} - {*QUICK}))]
)
def test_every_strategy_keeps_to_a_budget_in_milliseconds(strategy: str, network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network)
    most = {"netadapt": 40, "sensitivity": 40}.get(strategy, 15)  # they come to the budget, or to their curves, in time
    small = {"population": 4} if strategy in ("evolution", "metapruning", "nsga2") else {}
    order = ORDER | {"strategy": {"name": strategy, "options": small}, "controls": ["uniform"], "trials": {"max": most}}
    plan = plan_of(order | (PRUNING_NET if strategy == "metapruning" else {}), tmp_path, clock)
    assert plan.latencies is not None
    budget = plan.latencies.budgets["clock"].max
    whole = plan.latencies.devices["clock"].full_ms
    assert budget == pytest.approx(0.6 * whole)
    job, trials = run(plan, tmp_path)
    assert job.state is SearchState.SUCCEEDED
    assert job.result is not None
    gauge = plan.latencies.gauges["clock"]
    winner = next(t.candidate for t in trials if t.number == job.result["trial"])
    really = clock.network_ms(gauge.work(winner))
    assert really <= budget
    assert job.result["metrics"]["latency_ms"] == {"clock": pytest.approx(really, rel=1e-6)}
    assert job.result["base_metrics"]["latency_ms"] == {"clock": pytest.approx(whole, rel=1e-6)}
    details = job.result["metrics"]["latency"]["clock"]
    assert details["predicted_ms"] == pytest.approx(details["measured_ms"], rel=0.05)
    assert job.result["budgets"] == [{"metric": "latency_ms", "device": "clock", "max": budget, "min": None}]
    assert not plan.problem.monotone
    assert job.result["latency"]["clock"]["check"]["mape"] < 0.05
    searched = [t for t in trials if t.arm == "search" and t.state is TrialState.COMPLETE]
    assert all(metric_on("clock") in t.metrics for t in searched)


def test_two_devices_budget_one_search(network: TracedNetwork, tmp_path: Path) -> None:
    slow, fast = Clockwork("pi4", network, factor=5.0, overhead=0.0), Clockwork("server", network, overhead=0.05)
    budgets = [
        {"metric": "latency_ms", "max_ratio": 0.7, "device": "pi4"},
        {"metric": "latency_ms", "max_ratio": 0.8, "device": "server"},
        {"metric": "params", "max_ratio": 0.9},
    ]
    plan = plan_of(ORDER | {"budgets": budgets}, tmp_path, slow, fast)
    job, _ = run(plan, tmp_path)
    assert job.result is not None
    assert plan.latencies is not None
    assert set(job.result["metrics"]["latency_ms"]) == {"pi4", "server"}
    for name, taken in job.result["metrics"]["latency_ms"].items():
        assert taken <= plan.latencies.budgets[name].max
    assert job.result["metrics"]["params"] <= 0.9 * job.result["base_metrics"]["params"]


def test_where_predictions_are_not_trusted_every_candidate_is_measured(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network, fault=(1.0, 1.6, 0.6))
    plan = plan_of(ORDER | {"trials": {"max": 25}}, tmp_path, clock)
    assert plan.latencies is not None
    assert not plan.latencies.devices["clock"].trusted
    job, trials = run(plan, tmp_path)
    gauge, budget = plan.latencies.gauges["clock"], plan.latencies.budgets["clock"].max
    scored = [t for t in trials if t.arm in ("search", "random")]
    slow = [t for t in scored if clock.network_ms(gauge.work(t.candidate)) > budget]
    assert slow, "the device was meant to surprise"
    assert all(t.state is TrialState.INFEASIBLE and t.outcome and "measured" in str(t.outcome.reason) for t in slow)
    assert not any(t.outcome.cost for t in slow if t.outcome), "nothing was trained of them"
    costs = [plan.problem.costs(t.candidate) for t in slow]
    assert [t.metrics for t in slow] == [
        cost | {metric_on("clock"): plan.latencies.measure(t.candidate)["clock"]}
        for t, cost in zip(slow, costs, strict=True)
    ]
    assert all(t.state is TrialState.COMPLETE for t in scored if t not in slow)
    assert all(t.state is TrialState.COMPLETE for t in trials if t.arm in ("preparation", "base", "report"))
    assert job.result is not None
    assert job.result["metrics"]["latency_ms"]["clock"] <= budget


def test_leaders_that_turn_out_too_slow_are_passed_over(network: TracedNetwork, tmp_path: Path) -> None:
    """A device that is as predicted on average, and slower than that for every third candidate."""
    clock = Clockwork("clock", network, fault=(1.0, 1.0, 1.12))
    plan = plan_of(ORDER | {"trials": {"max": 30}}, tmp_path, clock)
    assert plan.latencies is not None
    job, trials = run(plan, tmp_path)
    assert job.result is not None
    winner = next(t for t in trials if t.number == job.result["trial"])
    assert plan.latencies.within(winner.candidate)
    ranked = sorted((t for t in trials if t.arm == "search"), key=lambda t: -t.metrics.get("top1", 0))
    before = ranked[: ranked.index(winner)]
    assert len(before) < MOST_MEASURED
    feasible = [t for t in before if plan.problem.is_feasible(t.candidate) and t.metrics["top1"] > winner.metrics["top1"]]
    assert not any(plan.latencies.within(t.candidate) for t in feasible)


def test_nothing_is_timed_when_an_order_is_only_checked(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network)
    plan = plan_of(ORDER, tmp_path, clock, now=False)
    assert plan.awaits_latency
    assert clock.asked == []
    assert plan.summary()["uniform"] is None
    plan_of(ORDER, tmp_path, clock)
    timed = len(clock.asked)
    assert timed > 0
    assert not plan_of(ORDER, tmp_path, clock, now=False).awaits_latency  # what is known is used
    assert len(clock.asked) == timed


ON_CLOCK = {"metric": "latency_ms", "device": "clock"}
UNKNOWN_YET: dict[str, dict[str, Any]] = {
    "a front over milliseconds": {
        "strategy": {"name": "nsga2", "options": {"costs": [metric_on("clock")], "population": 4}},
    },
    "a schedule of iterations": {
        "strategy": {"name": "netadapt", "preset": "published"}, "budgets": [ON_CLOCK | {"max": 1.0}], "trials": {"max": 40},
    },
    "a schedule that ends early": {
        "strategy": {"name": "netadapt", "options": {"initial_reduction": 0.025, "decay": 0.96}},
        "budgets": [ON_CLOCK | {"max_ratio": 0.2}],
    },
    "many MACs in little time": {"budgets": [{"metric": "macs", "min_ratio": 0.6}, ON_CLOCK | {"max_ratio": 0.5}]},
    "a long time at least": {"strategy": {"name": "amc"}, "budgets": [ON_CLOCK | {"min": 1.0}]},
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN_YET)
def test_an_order_is_not_refused_for_what_no_device_has_told_yet(case: str, network: TracedNetwork, tmp_path: Path) -> None:
    order = ORDER | UNKNOWN_YET[case]
    plan = plan_of(order, tmp_path, Clockwork("clock", network), now=False)
    told = plan.summary()
    assert "latency_ms@clock" not in told["base"]
    (clock,) = [b for b in told["budgets"] if b["metric"] == "latency_ms"]
    (ordered,) = [b for b in order["budgets"] if b["metric"] == "latency_ms"]
    assert clock == {**ON_CLOCK, "max": ordered.get("max"), "min": ordered.get("min")}


def test_what_can_be_known_before_a_device_is_asked_is_refused(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network)
    amc = {"strategy": {"name": "amc", "preset": "published"}}
    with pytest.raises(SpecError, match="only be a random search"):
        plan_of(ORDER | amc, tmp_path, clock, now=False)
    with pytest.raises(BudgetError, match="macs of at most"):
        plan_of(ORDER | {"budgets": [{"metric": "macs", "max": 1}, ON_CLOCK | {"max": 1}]}, tmp_path, clock, now=False)
    unknown = {"strategy": {"name": "nsga2", "options": {"costs": ["latency_ms@pi4"]}}}
    with pytest.raises(UnknownNameError, match="latency_ms@clock"):
        plan_of(ORDER | unknown, tmp_path, clock, now=False)


def test_a_search_that_goes_on_times_nothing_again_but_what_it_hands_out(network: TracedNetwork, tmp_path: Path) -> None:
    first, _ = run(plan_of(ORDER, tmp_path, Clockwork("clock", network)), tmp_path / "a")
    again = Clockwork("clock", network)
    plan = plan_of(ORDER, tmp_path, again)
    assert again.asked == []
    second, trials = run(plan, tmp_path / "b")
    assert first.result is not None
    assert second.result is not None
    assert plan.latencies is not None
    gauge = plan.latencies.gauges["clock"]
    assert set(again.asked) == {
        gauge.work(t.candidate) for t in trials if t.arm == "final" and t.origin["arm"] in MEASURED_ARMS
    }
    assert first.result["metrics"]["latency"] == second.result["metrics"]["latency"]


def test_milliseconds_are_judged_by_what_the_device_takes_at_the_end(network: TracedNetwork, tmp_path: Path) -> None:
    """A device that became slower by a quarter since it was known: its ratios stay, and its milliseconds do not."""
    clock = Clockwork("clock", network)
    as_part = plan_of(ORDER, tmp_path, clock)
    assert as_part.latencies is not None
    whole = as_part.latencies.devices["clock"].full_ms
    budgets = [{"metric": "latency_ms", "max": 0.6 * whole, "device": "clock"}]
    in_ms = plan_of(ORDER | {"budgets": budgets}, tmp_path, clock)
    assert in_ms.latencies is not None
    by_ratio = {as_part.latencies.measure(c)["clock"] / whole: c for c in random_candidates(in_ms.problem.space, 36, seed=0)}
    near = by_ratio[max(ratio for ratio in by_ratio if ratio < 0.6)]
    far = by_ratio[max(ratio for ratio in by_ratio if ratio < 0.6 / 1.25)]
    assert in_ms.latencies.within(near)
    clock.factor, clock.overhead = 1.25 * clock.factor, 1.25 * clock.overhead
    assert as_part.latencies.confirm(near)
    assert not in_ms.latencies.confirm(near)
    assert in_ms.latencies.confirm(far)
    row, base = in_ms.latencies.row(far), in_ms.latencies.row(in_ms.problem.space.full)
    assert base["latency_ms"]["clock"] == pytest.approx(1.25 * whole)
    assert row["latency_ms"]["clock"] == pytest.approx(row["latency"]["clock"]["ms"])
    assert row["latency_ms"]["clock"] == pytest.approx(clock.network_ms(in_ms.latencies.gauges["clock"].work(far)))


def test_a_search_without_anything_fast_enough_says_how_far_off_it_was(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network)
    plan = plan_of(ORDER, tmp_path, clock)
    assert plan.latencies is not None
    clock.fault = (3.0,)
    said = r"None of the \d+ candidates .* the nearest takes ([\d.]+) ms on 'clock'; the budget is at most ([\d.]+) ms\."
    with pytest.raises(EvaluationError, match=said) as caught:
        run(plan, tmp_path)
    nearest, budget = map(float, re.search(said, str(caught.value)).groups())  # type: ignore[union-attr]
    assert nearest > budget == pytest.approx(plan.latencies.budgets["clock"].max, rel=1e-3)


def test_a_budget_above_the_fastest_network_is_taken(network: TracedNetwork, tmp_path: Path) -> None:
    """On a device that is slow for widths that are no multiples of 16: the narrowest network is not the fastest."""
    narrow = ORDER | {"search_space": {"name": "digits_resnet", "round_to": 1, "min_ratio": 0.8}}
    wide = [{"metric": "latency_ms", "max": 1000, "device": "clock"}]
    plan = plan_of(narrow | {"budgets": wide}, tmp_path, Clockwork("clock", network))
    assert plan.latencies is not None
    device = plan.latencies.devices["clock"]
    slowest = plan.latencies.measure(plan.problem.space.narrowest)["clock"]
    assert device.fastest_ms < 0.9 * slowest
    for most in (1.001 * device.fastest_ms, 0.95 * slowest):
        budgets = [{"metric": "latency_ms", "max": most, "device": "clock"}]
        found = plan_of(narrow | {"budgets": budgets}, tmp_path, Clockwork("clock", network))
        assert found.problem.is_feasible(device.fastest)
        assert found.ordered[0].max == most
    budgets = [{"metric": "latency_ms", "max": 0.99 * device.fastest_ms, "device": "clock"}]
    with pytest.raises(BudgetError, match=f"of at most {0.99 * device.fastest_ms:.4g} on 'clock' cannot be reached"):
        plan_of(narrow | {"budgets": budgets}, tmp_path, Clockwork("clock", network))


@pytest.mark.parametrize("least_over", [1.02, 1.1])
def test_a_margin_leaves_something_to_find(network: TracedNetwork, tmp_path: Path, least_over: float) -> None:
    fault = (1.0, 1.15, 0.9)
    plan = plan_of(ORDER, tmp_path, Clockwork("clock", network, fault=fault))
    assert plan.latencies is not None
    device = plan.latencies.devices["clock"]
    assert device.check.mape > 0.02
    budgets = [{"metric": "latency_ms", "max": least_over * device.fastest_ms, "device": "clock"}]
    found = plan_of(ORDER | {"budgets": budgets}, tmp_path, Clockwork("clock", network, fault=fault))
    assert found.latencies is not None
    predicted = [found.latencies.predict(c)["clock"] for c in (device.fastest, found.problem.space.narrowest)]
    assert min(predicted) <= found.problem.budgets[0].max


class Balking(Clockwork):
    """Cannot time some networks once it is told so."""

    balks: Callable[[Work], bool] = staticmethod(lambda work: False)

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        for work in works:
            if self.balks(work):
                raise MeasurementError(f"Device {self.name!r} could not time it: no memory.")
            super().time([work], conditions, done)


def test_a_candidate_that_cannot_be_timed_fails_alone(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Balking("clock", network, fault=(1.0, 1.6, 0.6))
    plan = plan_of(ORDER | {"trials": {"max": 25}}, tmp_path, clock)
    clock.balks = lambda work: isinstance(work, NetworkWork) and sum(w for _, w in work.widths) % 4 == 0
    job, trials = run(plan, tmp_path)
    assert job.state is SearchState.SUCCEEDED
    failed = [t for t in trials if t.state is TrialState.FAILED]
    assert failed
    assert {t.outcome.reason for t in failed if t.outcome} == {"Device 'clock' could not time it: no memory."}


def test_a_network_that_cannot_be_timed_fails_the_search_with_the_reason(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Balking("clock", network)
    clock.balks = lambda work: isinstance(work, NetworkWork)
    with pytest.raises(MeasurementError, match="could not time it: no memory"):
        plan_of(ORDER, tmp_path, clock)
    assert clock.asked == [], "what cannot be run is known before blocks are timed"


class Unexportable(nn.Module):
    """Runs in torch, and has an operation that ONNX has not."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 8, 3), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(torch.relu(self.conv(x)).mean((2, 3)))
        scores += 0 * torch.linalg.matrix_exp(x[:, 0, :3, :3])[:, 0, :1]
        return scores


def test_a_network_that_onnx_runtime_cannot_load_fails_the_search_with_the_reason(tmp_path: Path) -> None:
    definition = NetworkDefinition("unexportable", Unexportable, (1, 8, 8), 10, mean=(0.5,), std=(0.3,))
    budgets = [{"metric": "latency_ms", "max": 1000}]
    order = ORDER | {"search_space": {"name": "given"}, "budgets": budgets, "latency": {"runtime": "onnxruntime"}}
    roots = Roots(tmp_path / "data", tmp_path / "weights", tmp_path / "cache")
    given = Given(definition, DATASETS.get("digits"))
    with pytest.raises(MeasurementError, match=r"cannot export the network to ONNX: .*linalg_matrix_exp"):
        make_plan(SearchSpec.parse(order), roots, given=given)


def test_a_search_says_that_it_waits_for_a_device(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network, fault=(1.0, 1.6, 0.6))
    store = MemoryStore()
    run(plan_of(ORDER, tmp_path, clock), tmp_path, store=store)
    [job] = store.list_searches()
    told = [e.data["reason"] for e in store.events(job.id, limit=1000) if e.kind is EventKind.STATE]
    assert "waiting for device 'clock' to time trial-0002" in told
    assert told[told.index("waiting for device 'clock' to time trial-0002") + 1] == "evaluating candidates"
    assert told[told.index("timing the leaders on device 'clock'") + 1] == "recovering the best candidates"


def test_amc_walks_the_same_layers_with_and_without_a_device(network: TracedNetwork, tmp_path: Path) -> None:
    timed = plan_of(ORDER, tmp_path, Clockwork("clock", network)).problem
    counted = plan_of(ORDER | {"budgets": [{"metric": "macs", "max_ratio": 0.6}]}, tmp_path).problem
    one, other = Walk(timed, 0.2).steps, Walk(counted, 0.2).steps
    assert [(s.layer, s.group, s.shape, s.cost) for s in one] == [(s.layer, s.group, s.shape, s.cost) for s in other]
    assert "layer1.0.conv2" in {s.layer for s in one}


def test_targets_of_netadapt_are_milliseconds(network: TracedNetwork, tmp_path: Path) -> None:
    order = ORDER | {"strategy": {"name": "netadapt"}, "trials": {"max": 40}}
    plan = plan_of(order, tmp_path, Clockwork("clock", network))
    assert plan.latencies is not None
    whole = plan.latencies.predict(plan.problem.space.full)["clock"]
    proposal = plan.make_strategy().ask()
    assert proposal is not None
    assert proposal.origin["targets"] == {"latency_ms@clock": pytest.approx(0.95 * whole)}


FAULTS: dict[str, tuple[list[dict[str, Any]], type[UserError], str, str]] = {
    "unknown": ([{"metric": "latency_ms", "max": 3, "device": "pi5"}], DeviceError, "/budgets/0/device", "known: clock"),
    "too fast": (
        [{"metric": "macs", "max_ratio": 0.9}, {"metric": "latency_ms", "max": 1e-6, "device": "clock"}],
        BudgetError, "/budgets/1", "fastest network",
    ),
    "twice": (
        [{"metric": "latency_ms", "max": 3, "device": "clock"}, {"metric": "latency_ms", "min": 1, "device": "clock"}],
        SpecError, "/budgets/1/device", "already",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_budgets_are_named(fault: str, network: TracedNetwork, tmp_path: Path) -> None:
    budgets, kind, pointer, words = FAULTS[fault]
    with pytest.raises(kind, match=words) as caught:
        plan_of(ORDER | {"budgets": budgets}, tmp_path, Clockwork("clock", network))
    pointers = [e.pointer for e in caught.value.errors] if isinstance(caught.value, SpecError) else [caught.value.pointer]
    assert pointers == [pointer]


def test_a_device_that_lacks_the_runtime_is_named(network: TracedNetwork, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no runtime 'onnxruntime'; it has torch") as caught:
        plan_of(ORDER | {"latency": {"runtime": "onnxruntime"}}, tmp_path, Clockwork("clock", network))
    assert caught.value.pointer == "/latency/runtime"


def test_devices_have_conditions_of_their_own(network: TracedNetwork, tmp_path: Path) -> None:
    budgets = [{"metric": "latency_ms", "max_ratio": 0.9, "device": name} for name in ("pi4", "server")]
    own = {"batch": 2, "devices": {"server": {"threads": 4, "dtype": "bfloat16"}}}
    devices = [Clockwork(name, network) for name in ("pi4", "server")]
    plan = plan_of(ORDER | {"budgets": budgets, "latency": own}, tmp_path, *devices)
    again = SearchSpec.parse(plan.spec.model_dump(mode="json"))
    for made in (plan, plan_of(again.model_dump(mode="json"), tmp_path, *devices)):
        assert made.latencies is not None
        assert {name: gauge.conditions for name, gauge in made.latencies.gauges.items()} == {
            "pi4": Conditions("torch", 2, 1, "float32"),
            "server": Conditions("torch", 2, 4, "bfloat16"),
        }
    told = plan.summary()["latency"]
    assert [told[name]["conditions"]["threads"] for name in ("pi4", "server")] == [1, 4]


OF_DEVICES = {
    "runtime": ({"clock": {"runtime": "onnxruntime"}}, "/latency/devices/clock/runtime", "has no runtime"),
    "unknown runtime": ({"clock": {"runtime": "onnx"}}, "/latency/devices/clock/runtime", "onnxruntime"),
    "no budget": ({"a/b~c": {"batch": 2}}, "/latency/devices/a~1b~0c", "No latency budget is of 'a/b~c'"),
}


@pytest.mark.parametrize("fault", OF_DEVICES)
def test_faulty_conditions_of_a_device_are_named(fault: str, network: TracedNetwork, tmp_path: Path) -> None:
    devices, pointer, said = OF_DEVICES[fault]
    with pytest.raises(UserError, match=said) as caught:
        plan_of(ORDER | {"latency": {"devices": devices}}, tmp_path, Clockwork("clock", network))
    found = caught.value.errors[0].pointer if isinstance(caught.value, SpecError) else caught.value.pointer
    assert found == pointer


def test_conditions_on_a_device_without_any_latency_budget_are_refused(network: TracedNetwork, tmp_path: Path) -> None:
    order = ORDER | {"budgets": [{"metric": "macs", "max_ratio": 0.9}], "latency": {"devices": {"clock": {"batch": 2}}}}
    with pytest.raises(SpecError, match="No latency budget is of 'clock'"):
        plan_of(order, tmp_path, Clockwork("clock", network))


MISNAMED: dict[str, tuple[dict[str, Any], str]] = {
    "on all": ({"runtime": "onxruntime"}, "/latency/runtime"),
    "on all, though the only device has another": (
        {"runtime": "onxruntime", "devices": {"clock": {"runtime": "torch"}}}, "/latency/runtime",
    ),
    "on one": ({"devices": {"a/b": {"runtime": "onxruntime"}}}, "/latency/devices/a~1b/runtime"),
}  # fmt: skip


@pytest.mark.parametrize("budget", ["macs", "latency_ms"])
@pytest.mark.parametrize("where", MISNAMED)
def test_no_unknown_runtime_is_taken(where: str, budget: str, network: TracedNetwork, tmp_path: Path) -> None:
    latency, pointer = MISNAMED[where]
    budgets = [{"metric": budget, "max_ratio": 0.9, "device": "clock" if budget == "latency_ms" else None}]
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'") as caught:
        plan_of(ORDER | {"budgets": budgets, "latency": latency}, tmp_path, Clockwork("clock", network), now=False)
    assert caught.value.pointer == pointer


def test_outcomes_that_are_not_complete_are_left_alone(network: TracedNetwork, tmp_path: Path) -> None:
    plan = plan_of(ORDER, tmp_path, Clockwork("clock", network))
    assert plan.latencies is not None
    failed = Outcome.failed("no reason")
    assert plan.latencies.judge(Trial(0, plan.problem.space.full), failed) is failed
