"""Leaders are timed once more before one of them is called a success: how often, and what of it a restart keeps."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from automl_prune.evaluation.setup import SELECT_IMAGES
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import OnTiming
from automl_prune.latency.sampling import random_candidates
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.loop.arms import TIMED, finalists, reported
from automl_prune.loop.fresh import Fresh, is_clear
from automl_prune.loop.job import SearchState
from automl_prune.loop.measured import LOOKS, MOST_MEASURED, Latencies, first_within
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.problem import Budget
from automl_prune.space import Candidate
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Outcome, Trial, TrialState
from tests.latency.clockwork import Clockwork
from tests.loop import mortal
from tests.loop.test_latencies import ORDER, Balking, lookup, plan_of

SLOWER = 1.05


class Wavering(Clockwork):
    """Takes ``swing`` times as long as it should for the next networks that it times, one after the other."""

    def __init__(self, network: TracedNetwork) -> None:
        super().__init__("clock", network)
        self.swing: list[float] = []
        self.unsettled = 0

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        for work in works:
            times = self.swing.pop(0) if self.swing else 1.0
            settled, self.unsettled = self.unsettled == 0, max(0, self.unsettled - 1)

            def told(work: Work, timing: Timing, times: float = times, settled: bool = settled) -> None:
                ratio, ms = times * timing.ratio, times * timing.ms
                done(work, Timing(ms, timing.iqr_ms, ratio, timing.ratio_iqr, timing.reference_ms, 20, settled))

            super().time([work], conditions, told)


@pytest.fixture(scope="module")
def network() -> TracedNetwork:
    return TracedNetwork.registered("digits_resnet", 10)


@pytest.fixture
def clock(network: TracedNetwork) -> Wavering:
    return Wavering(network)


@pytest.fixture
def latencies(clock: Wavering, tmp_path: Path) -> Latencies:
    found = plan_of(ORDER, tmp_path, clock).latencies
    assert found is not None
    return found


def at(latencies: Latencies, part: float) -> Candidate:
    """The candidate that takes nearest to this part of the budget; known so far by one timing."""
    gauge, most = latencies.gauges["clock"], latencies.budgets["clock"].max
    some = random_candidates(gauge.space, 200, seed=3)
    return min(some, key=lambda c: abs(latencies.predict(c)["clock"] / most - part))


def test_one_lucky_timing_lets_nothing_pass(latencies: Latencies, clock: Wavering) -> None:
    slow = at(latencies, 1.02)
    clock.swing = [0.96]
    assert latencies.within(slow), "the first timing was meant to be lucky"
    clock.swing = [0.97, 1.0, 1.01]
    assert not latencies.confirm(slow)
    told = latencies.row(slow)["latency"]["clock"]
    assert told["timings"] == 3
    assert told["measured_ms"] == pytest.approx(clock.network_ms(latencies.gauges["clock"].work(slow)))
    assert 0.01 < told["error"] < 0.02


def test_behind_leaders_that_turn_out_too_slow_come_those_of_the_rounds_before(
    network: TracedNetwork, clock: Wavering, tmp_path: Path
) -> None:
    """The last round has only as many as are recovered; all may be found too slow when everything else is paid for."""
    plan = plan_of(ORDER, tmp_path, clock)
    assert plan.latencies is not None
    wide, narrow, far = (at(plan.latencies, part) for part in (0.97, 0.9, 0.5))

    def scored(number: int, candidate: Candidate, top1: float, arm: str = "search", of: int | None = None) -> Trial:
        origin = {} if of is None else {"arm": "search", "of": of, SELECT_IMAGES: 20}
        metrics = {"top1": top1, "latency_ms@clock": plan.problem.costs(candidate)["latency_ms@clock"]}
        return Trial(number, candidate, arm=arm, origin=origin).with_outcome(Outcome(TrialState.COMPLETE, metrics))

    searched = [scored(n, c, score) for n, (c, score) in enumerate([(far, 0.7), (narrow, 0.8), (wide, 0.9)])]
    first = [scored(3, wide, 0.7, "confirm-1", of=2), scored(4, narrow, 0.8, "confirm-1", of=1)]
    last = [scored(5, narrow, 0.8, "confirm-2", of=1)]
    assert all(map(plan.latencies.within, (wide, narrow, far)))
    clock.swing = [1.5]
    (finalist,) = finalists(plan.problem, [*searched, *first, *last], 1, rounds=2, latencies=plan.latencies)
    assert (finalist.candidate, finalist.origin["of"]) == (wide, 2)
    asked = Trial(6, finalist.candidate, arm="final", origin=finalist.origin)
    again = finalists(plan.problem, [*searched, *first, *last, asked], 2, rounds=2, latencies=plan.latencies)
    assert [f.candidate for f in again] == [wide, far], "a driver that takes over goes on behind what was asked for"


def test_where_every_leader_is_too_slow_anew_that_is_said(latencies: Latencies, clock: Wavering) -> None:
    leader, other = at(latencies, 0.97), at(latencies, 0.5)
    assert latencies.within(leader)
    assert latencies.within(other)
    clock.swing = [1.5]
    assert not latencies.confirm(leader)
    assert "None of the 1 candidates that were measured" in str(latencies.why_none([leader, other]))


def test_one_unlucky_timing_of_three_keeps_nothing_out(latencies: Latencies, clock: Wavering) -> None:
    fast = at(latencies, 0.98)
    assert latencies.within(fast)
    clock.swing = [1.05, 1.0, 1.0]
    assert latencies.confirm(fast)


def test_what_is_far_from_the_budget_is_timed_once_more(latencies: Latencies, clock: Wavering) -> None:
    fast = at(latencies, 0.8)
    assert latencies.within(fast)
    before = len(clock.asked)
    assert latencies.confirm(fast)
    assert len(clock.asked) == before + 1
    assert latencies.row(fast)["latency"]["clock"]["timings"] == 1


def test_timings_that_do_not_settle_decide_nothing_beside_one_that_does(
    latencies: Latencies, clock: Wavering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automl_prune.latency.gauge.AGAIN_SECONDS", 0)
    fast = at(latencies, 0.9)
    assert latencies.within(fast)
    clock.unsettled, clock.swing = 6, [1.3] * 6 + [1.0]
    assert latencies.confirm(fast)


def test_a_new_timing_that_does_not_settle_is_repeated_after_a_while(
    latencies: Latencies, clock: Wavering, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("automl_prune.latency.gauge.time", SimpleNamespace(sleep=waited.append))
    gauge, candidate = latencies.gauges["clock"], at(latencies, 0.8)
    gauge.afresh(candidate)
    before, clock.unsettled = len(clock.asked), 1
    assert gauge.afresh(candidate).settled
    assert len(clock.asked) == before + 2
    clock.unsettled = 10
    assert not gauge.afresh(candidate).settled
    assert len(clock.asked) == before + 5
    assert sum(waited) == 5 + 5 + 10


def test_a_leader_that_does_not_settle_is_given_up_once_the_search_is_to_stop(
    clock: Wavering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("automl_prune.latency.gauge.time", SimpleNamespace(sleep=waited.append))

    def check() -> None:
        if sum(waited) >= 2:
            raise InterruptedError

    roots = Roots(tmp_path / "data", tmp_path / "weights", tmp_path / "cache")
    latencies = make_plan(SearchSpec.parse(ORDER), roots, devices=lookup(clock), check=check).latencies
    assert latencies is not None
    fast = at(latencies, 0.9)
    assert latencies.within(fast)
    before, clock.unsettled = len(clock.asked), 10
    with pytest.raises(InterruptedError):
        first_within(latencies, [Trial(0, fast)], 1, afresh=True)
    assert sum(waited) <= 3, "it is looked at least once a second"
    assert len(clock.asked) == before + 1


def test_milliseconds_of_the_full_network_are_not_the_least_of_several(
    latencies: Latencies, clock: Wavering, tmp_path: Path
) -> None:
    whole = latencies.devices["clock"].full_ms
    order = ORDER | {"budgets": [{"metric": "latency_ms", "max": 0.6 * whole, "device": "clock"}]}
    in_ms = plan_of(order, tmp_path, clock).latencies
    assert in_ms is not None
    fast = at(in_ms, 0.8)
    assert in_ms.within(fast)
    full, before = in_ms.gauges["clock"].network, clock.asked.count(in_ms.gauges["clock"].network)
    clock.swing = [0.9, 1.1, 1.1]
    assert in_ms.confirm(fast)
    assert clock.asked.count(full) == before + LOOKS
    assert in_ms.row(fast)["latency_ms"]["clock"] == pytest.approx(1.05 * clock.network_ms(in_ms.gauges["clock"].work(fast)))


@pytest.mark.parametrize(
    ("ms", "error", "clear"), [(9.7, 0.001, False), (9.5, 0.001, True), (9.5, 0.02, False), (0.1, 0.5, True)]
)
def test_a_time_is_clear_by_its_error(ms: float, error: float, clear: bool) -> None:
    assert is_clear(ms, error, Budget("latency_ms@clock", max=10.0)) is clear


def test_nothing_is_reported_that_was_measured_to_be_too_slow(latencies: Latencies, clock: Wavering, tmp_path: Path) -> None:
    plan = plan_of(ORDER, tmp_path, clock)
    slow, fast = at(latencies, 1.02), at(latencies, 0.9)

    def recovered(number: int, candidate: Candidate, top1: float) -> Trial:
        trial = Trial(number, candidate, "final", {"of": number, "arm": "search"})
        return trial.with_outcome(Outcome(TrialState.COMPLETE, {"top1": top1}))

    clock.swing = [0.96]
    assert latencies.within(slow)
    slow_one, fast_one = recovered(0, slow, 0.9), recovered(1, fast, 0.8)
    roomy = replace(plan.problem, budgets=())
    told = reported(roomy, [slow_one, fast_one], latencies=latencies)
    assert [p.origin.get("of") for p in told] == [None, 0]
    assert not latencies.confirm(slow)
    told = reported(roomy, [slow_one, fast_one], latencies=latencies)
    assert [p.origin.get("of") for p in told] == [None, 1]


def test_a_full_network_that_cannot_be_timed_again_is_taken_to_need_what_it_did(
    network: TracedNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Balking("clock", network)
    budgets = [{"metric": "latency_ms", "max": 1000, "device": "clock"}]
    latencies = plan_of(ORDER | {"budgets": budgets}, tmp_path, clock).latencies
    assert latencies is not None
    clock.balks = lambda work: isinstance(work, NetworkWork) and not work.widths
    candidate = latencies.gauges["clock"].space.narrowest
    assert latencies.confirm(candidate)
    assert "as before: Device 'clock' could not time it: no memory." in caplog.text
    assert latencies.measure(candidate)["clock"] == pytest.approx(
        clock.network_ms(latencies.gauges["clock"].work(candidate))
    )


def test_where_all_leaders_are_too_slow_the_fastest_are_tried(latencies: Latencies, clock: Wavering) -> None:
    some = sorted(random_candidates(latencies.gauges["clock"].space, 100, seed=3), key=latencies.predicted_part)
    fast, slow = some[:3], [c for c in some if latencies.predicted_part(c) > 1.02][:MOST_MEASURED]
    between = [c for c in some if c not in fast and c not in slow][:5]
    assert len(slow) == MOST_MEASURED
    best_first = [Trial(n, candidate) for n, candidate in enumerate([*slow, *between, *reversed(fast)])]
    assert [t.candidate for t in first_within(latencies, best_first, 2)] == fast[:2]
    assert [t.candidate for t in first_within(latencies, [best_first[-1], *best_first], 2)] == [fast[0]]


def test_a_network_that_is_faster_than_predicted_can_win(network: TracedNetwork, tmp_path: Path) -> None:
    clock = Clockwork("clock", network, fault=(1.0, 1.6, 0.6))
    plan = plan_of(ORDER, tmp_path, clock)
    latencies, [kept] = plan.latencies, plan.problem.budgets
    assert latencies is not None
    assert not latencies.devices["clock"].trusted
    most = latencies.budgets["clock"].max
    assert kept.measured == latencies.budgets["clock"]
    check = latencies.devices["clock"].check
    ratios = sorted(taken / said for taken, said in zip(check.measured, check.predicted, strict=True))
    within = [ratio for ratio in ratios if ratio * kept.max <= most]
    assert len(ratios) // 2 <= len(within) < len(ratios), "half of what is predicted to take just this takes no longer"

    def scored(number: int, candidate: Candidate, top1: float, arm: str = "search") -> Trial:
        metrics = {"top1": top1, **{f"latency_ms@{name}": ms for name, ms in latencies.measure(candidate).items()}}
        return Trial(number, candidate, arm).with_outcome(Outcome(TrialState.COMPLETE, metrics))

    some = random_candidates(plan.problem.space, 200, seed=3)
    fast = next(c for c in some if latencies.predict(c)["clock"] > kept.max and latencies.within(c))
    slow = next(c for c in some if latencies.predict(c)["clock"] < kept.max and not latencies.within(c))
    as_foretold = next(c for c in some if latencies.predict(c)["clock"] < kept.max and latencies.within(c))
    history = [scored(0, as_foretold, 0.7), scored(1, fast, 0.8), scored(2, slow, 0.9), scored(3, slow, 0.9, "uniform")]
    final = finalists(plan.problem, history, 2, latencies=latencies)
    assert [(p.origin["arm"], p.origin["of"]) for p in final] == [("search", 1), ("search", 0), ("uniform", 3)]
    recovered = [
        Trial(9 + n, p.candidate, "final", p.origin).with_outcome(history[p.origin["of"]].outcome)
        for n, p in enumerate(final)
    ]
    told = reported(plan.problem, recovered, latencies=latencies)
    assert [(p.origin["arm"], p.origin.get("of")) for p in told] == [("base", None), ("search", 1), ("uniform", 3)]


def find(name: str, *, fault: Sequence[float]) -> Clockwork:
    """Looked up in the driver's process."""
    return Clockwork(name, TracedNetwork.registered("digits_resnet", 10), fault=fault)


def test_a_driver_killed_among_the_leaders_is_continued_with_what_it_had_measured(tmp_path: Path) -> None:
    """The device is slower afterwards: who was found to be fast enough stays so, who comes next is timed then."""
    order: dict[str, Any] = ORDER | {"trials": {"max": 12}, "controls": [], "finish": {"top_k": 3, "recovery": "none"}}
    roots = Roots(tmp_path / "data", tmp_path / "weights", tmp_path / "cache")
    before, after = partial(find, fault=(1.0,)), partial(find, fault=(SLOWER,))

    def new(folder: Path) -> SqlStore:
        folder.mkdir()
        store = SqlStore.open(mortal.url(folder), upgrade=True)
        store.add_search(order, name=None, labels={})
        return store

    def finals(store: SqlStore, search: str) -> list[Trial]:
        return [stored.trial for stored in store.trials(search, arm="final")]

    with closing(new(tmp_path / "whole")) as store:
        [job] = store.list_searches()
        assert not mortal.live(tmp_path / "whole", roots, None, before)
        undisturbed = finals(store, job.id)
        assert len(undisturbed) == 3
    lines = (tmp_path / "whole" / "diary").read_text().splitlines()
    death = 2 * lines.index(f"outcome {undisturbed[0].number}") + 1
    with closing(new(tmp_path / "broken")) as store:
        [job] = store.list_searches()
        assert mortal.live(tmp_path / "broken", roots, death, before)
        store.release(job.id, 1, reason="killed")
        assert not mortal.live(tmp_path / "broken", roots, None, after)
        ended = store.get_search(job.id)
        assert ended.state is SearchState.SUCCEEDED, ended.state_reason
        assert ended.result is not None
        came = finals(store, job.id)
        searched = [stored.trial for stored in store.trials(job.id, arm="search")]
    budget = ended.result["budgets"][0]["max"]
    ranked = sorted(searched, key=lambda t: (-t.metrics["top1"], sum(t.candidate.widths), t.number))
    assert ranked[0].candidate == undisturbed[0].candidate
    behind = [t for t in ranked[1:] if SLOWER * t.metrics["latency_ms@clock"] <= budget]
    assert behind[0] is not ranked[1], "the second was meant to be too slow by then"
    assert [t.origin["of"] for t in came] == [t.number for t in (ranked[0], *behind[:2])]
    timed = {t.number: Fresh.from_json(t.origin[TIMED]["clock"]).ms for t in came}
    assert all(ms <= budget for ms in timed.values())
    winner = next(t for t in came if t.origin["of"] == ended.result["trial"])
    assert winner is came[0]
    assert ended.result["metrics"]["latency_ms"]["clock"] == timed[winner.number]
