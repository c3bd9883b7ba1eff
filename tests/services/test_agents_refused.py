"""Agents whose measurements are none, or that the service fails at, and agents that are not the last ones of their name."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi import FastAPI

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.registered import Measurement, MeasurementState
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.testing.store_devices import GOOD, HOW
from services.agent import agent as agents
from services.agent.agent import Agent
from services.cli.client import RefusedError
from tests.services.agents import BLOCKS, Mortal, known, results
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"ms": float("nan")}, "ms of a measurement is nan; it is a positive finite number."),
    "negative": ({"ratio": -0.5}, "ratio of a measurement is -0.5; it is a positive finite number."),
    "beyond what the service takes": ({"ms": 2e9}, "What was measured was refused: /timing/ms Input should be less than"),
    "a spread beyond all bounds": ({"ratio": 1e-320, "ratio_iqr": 1e8}, "What was measured was refused: The spread of a"),
}


@pytest.mark.parametrize(("bad", "said"), BAD.values(), ids=BAD)
def test_what_a_runtime_brings_that_is_no_measurement_is_told_as_such(
    app: FastAPI,
    serve: Callable[[FastAPI], str],
    devices: SqlDevices,
    start: Callable[..., None],
    bad: dict[str, Any],
    said: str,
) -> None:
    start(serve(app), lambda how, work: replace(GOOD, **bad) if work == BLOCKS[0] else GOOD)
    until(known(devices))
    wrong, right = results(devices, devices.add("default", "pi", HOW, BLOCKS[:2], wanted_seconds=60))
    assert (wrong.state, wrong.attempt, right.timing) == (MeasurementState.FAILED, 1, GOOD)
    assert str(wrong.error).startswith(said)


def test_a_measurement_of_another_version_is_told_as_refused(
    app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices, start: Callable[..., None]
) -> None:
    @dataclass(frozen=True)
    class Newer(Timing):
        p99: float = 2.0

    start(serve(app), lambda how, work: Newer(**GOOD.to_json()))
    until(known(devices))
    (refused,) = results(devices, devices.add("default", "pi", HOW, BLOCKS[:1], wanted_seconds=60))
    assert refused.state is MeasurementState.FAILED
    assert "p99" in str(refused.error)


@pytest.mark.parametrize("fails", ["at timings", "at all reports"])
def test_a_report_that_the_service_always_fails_at_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
    app: FastAPI,
    serve: Callable[[FastAPI], str],
    devices: SqlDevices,
    start: Callable[..., None],
    fails: str,
) -> None:
    monkeypatch.setattr(agents, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(agents, "MOST_FAULTS", 3)
    reports: list[Timing | None] = []
    timed: list[Work] = []

    class Faulty(SqlDevices):
        def record(self, *args: Any, **options: Any) -> Measurement:
            reports.append(options["timing"])
            if options["timing"] or fails == "at all reports":
                raise RuntimeError("a fault of the service")
            return super().record(*args, **options)

    def time_it(how: Conditions, work: Work) -> Timing:
        timed.append(work)
        return GOOD

    app.state.devices = Faulty(devices._database)
    start(serve(app), time_it)
    until(known(devices))
    batch = devices.add("default", "pi", HOW, BLOCKS[:1], wanted_seconds=60)
    if fails == "at timings":
        (failed,) = results(devices, batch)
        assert str(failed.error).startswith("The service failed at what was measured: ")
        assert reports == [GOOD, GOOD, GOOD, None]
    else:
        until(lambda: len(reports) >= 6)
        devices.add("default", "pi", HOW, BLOCKS[1:2], wanted_seconds=600)
        until(lambda: BLOCKS[1] in timed)
        assert reports[:6] == [GOOD, GOOD, GOOD, None, None, None]


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_of_two_boards_with_one_name_the_later_measures_and_the_earlier_ends_and_says_why(
    app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices
) -> None:
    address = serve(app)
    command = [sys.executable, "-m", "services.cli", "agent", "--name", "pi", "--server", address]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(known(devices))
    before = devices.device("default", "pi").epoch
    second = subprocess.Popen(command)
    try:
        said = first.communicate(timeout=240)[1]
        assert first.returncode == 2, said
        assert "Another agent speaks for 'pi' now" in said
        assert devices.device("default", "pi").epoch != before
        batch = devices.add("default", "pi", Conditions(), BLOCKS[:2], wanted_seconds=120)
        assert {(one.state, one.attempt) for one in results(devices, batch)} == {(MeasurementState.DONE, 1)}
    finally:
        for process in (first, second):
            process.kill()
            process.wait(20)


def test_what_an_agent_is_at_when_another_registers_is_not_taken_from_it(
    app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices
) -> None:
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def time_it(how: Conditions, work: Work) -> Timing:
        begun.set()
        go_on.wait(240)
        return replace(GOOD, ms=99.0)

    with Mortal(serve(app), over) as link, ThreadPoolExecutor(1) as pool:
        ended = pool.submit(Agent(link, "pi", time_it).run)
        try:
            until(known(devices))
            batch = devices.add("default", "pi", HOW, BLOCKS[:1], wanted_seconds=600)
            assert begun.wait(240)
            devices.register("default", "pi", describe_this_machine())
            go_on.set()
            with pytest.raises(RefusedError, match="Another agent speaks for 'pi' now"):
                ended.result(240)
        finally:
            go_on.set()
            over.set()
    assert devices.results("default", batch[0].batch, wanted_seconds=60) == []
    assert devices.has_work("default", "pi")
