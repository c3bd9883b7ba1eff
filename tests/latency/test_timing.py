"""What a measurement makes of the seconds that a clock reports."""

import itertools
import json
import math

import pytest

from automl_prune.errors import MeasurementError
from automl_prune.latency import timing
from automl_prune.latency.timing import Best, Timing, compare, on_the_wall

GOOD = Timing(ms=2.0, iqr_ms=0.1, ratio=0.5, ratio_iqr=0.02, reference_ms=4.0, samples=15, settled=True)


def slow() -> None:
    """Takes what the test's clock says."""


def reference() -> None:
    """Takes a millisecond."""


class DriftingClock:
    """The run takes twice as long as the reference, on a machine that slows down by a percent with every reading."""

    def __init__(self, growth: float = 1.01) -> None:
        self.speed, self.growth = 1.0, growth

    def __call__(self, run: object, calls: int) -> float:
        self.speed *= self.growth
        return (2e-3 if run is slow else 1e-3) * self.speed * calls


def test_drift_of_the_machine_cancels_in_the_ratio() -> None:
    found = compare(slow, reference, clock=DriftingClock())
    assert found.ratio == pytest.approx(2, rel=0.015)
    assert found.iqr_ms / found.ms > 0.1  # the milliseconds themselves are worth little
    assert found.settled


class SharedClock:
    """A machine that others use in turns of forty readings: then the run takes 60 % longer, and the reference a fifth."""

    def __init__(self) -> None:
        self.readings = itertools.count(80)

    def __call__(self, run: object, calls: int) -> float:
        disturbed = next(self.readings) // 40 % 3 != 2
        return (2e-3 * (1.6 if disturbed else 1) if run is slow else 1e-3 * (1.2 if disturbed else 1)) * calls


def test_rounds_in_which_others_slow_the_reference_do_not_count() -> None:
    clock, best = SharedClock(), Best()
    compare(slow, reference, clock=clock, best=best)
    found = compare(slow, reference, clock=clock, best=best)
    assert (found.ratio, found.ms, found.reference_ms) == pytest.approx((2, 2, 1))
    assert found.settled


def test_what_the_reference_takes_at_its_best_is_remembered_and_forgotten() -> None:
    best = Best(timings=5)
    assert compare(slow, reference, clock=DriftingClock(1), best=best).settled
    busy = compare(slow, reference, clock=lambda run, calls: (3.2e-3 if run is slow else 1.2e-3) * calls, best=best)
    assert not busy.settled
    for _ in range(5):
        slower = compare(slow, reference, clock=lambda run, calls: (2.4e-3 if run is slow else 1.2e-3) * calls, best=best)
    assert slower.settled
    assert slower.ratio == pytest.approx(2)


def test_it_goes_on_until_the_precision_is_reached() -> None:
    noise = itertools.cycle([1.0, 1.2, 0.9, 1.1, 0.8])

    def clock(run: object, calls: int) -> float:
        return 1e-3 * calls * (next(noise) if run is slow else 1.0)

    loose = compare(slow, reference, clock=clock, precision=0.05)
    tight = compare(slow, reference, clock=clock, precision=0.02)
    assert loose.samples < tight.samples
    assert loose.error <= 0.05
    assert tight.error <= 0.02


def test_what_never_settles_says_so_and_the_steadiest_attempt_counts() -> None:
    wild = itertools.cycle([1.0, 9.0, 0.2])

    def clock(run: object, calls: int) -> float:
        return 1e-3 * calls * (next(wild) if run is slow else 1.0)

    found = compare(slow, reference, clock=clock, precision=0.001, most=20)
    assert not found.settled
    assert found.samples == 20


def test_rounds_in_which_the_processor_was_taken_away_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"times": 0}
    readings = itertools.count()

    def clock(run: object, calls: int) -> float:
        if next(readings) % 5 == 0 and run is slow:
            taken["times"] += 1
            return 50e-3 * calls
        return 1e-3 * calls

    monkeypatch.setattr(timing, "interruptions", lambda: taken["times"])
    found = compare(slow, reference, clock=clock)
    assert taken["times"] > 1
    assert found.ratio == pytest.approx(1)
    assert found.iqr_ms == pytest.approx(0, abs=1e-9)


def test_short_runs_are_called_often_enough_for_the_clock() -> None:
    seen: set[int] = set()

    def clock(run: object, calls: int) -> float:
        seen.add(calls)
        return 1e-6 * calls

    assert compare(slow, reference, clock=clock, sample_seconds=1e-3).ms == pytest.approx(1e-3)
    assert max(seen) in (1000, 1001)


def test_a_real_clock_tells_one_call_from_two() -> None:
    def once() -> None:
        sum(range(20_000))

    def twice() -> None:
        once()
        once()

    found = compare(twice, once, clock=on_the_wall)
    assert found.ratio == pytest.approx(2, rel=0.15)


def test_json_both_ways() -> None:
    assert Timing.from_json(json.loads(json.dumps(GOOD.to_json()))) == GOOD


FAULTY: list[tuple[str, object]] = [
    *(("ms", value) for value in (math.nan, math.inf, -1.0, 0, "2", None, True)),
    *(("ratio", 0.0), ("iqr_ms", -0.1), ("ratio_iqr", math.nan), ("reference_ms", 0.0)),
    *(("samples", 0), ("samples", 1.5), ("samples", True), ("settled", 1)),
]


@pytest.mark.parametrize(("field", "value"), FAULTY)
def test_a_time_that_is_none_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(MeasurementError, match=field):
        Timing.from_json(GOOD.to_json() | {field: value})


@pytest.mark.parametrize("data", [None, [], {}, GOOD.to_json() | {"more": 1}])
def test_other_fields_are_refused(data: object) -> None:
    with pytest.raises(MeasurementError, match="fields"):
        Timing.from_json(data)
