"""Searches under budgets on devices elsewhere: agents that follow a formula, over real HTTP; and what is refused."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from automl_prune.errors import AnotherAgentError, MeasurementError
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.loop.job import EventKind, SearchJob, SearchState
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.tables import DeviceRow
from automl_prune.trial import Trial
from services.agent import agent
from services.agent.agent import Agent
from services.api.app import create_app
from services.cli.client import RefusedError
from services.driver import Requests, drive
from services.settings import Settings, load_settings
from services.wiring import reviewer
from tests.services.agents import Mortal
from tests.services.formula_agent import formula
from tests.services.waiting import until

SLOW_ON_POSTGRESQL = True

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 16},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [
        {"metric": "latency_ms", "max_ratio": 0.8, "device": "pi4"},
        {"metric": "latency_ms", "max": 1000, "device": "nano"},
    ],
    "recipe": {"inherit": "l1", "recalibrate_batches": 1, "fine_tune": {"steps": 0}, "reconstruct": "none"},
    "base_training": {"epochs": 1},
    "trials": {"max": 3},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}
HERE = DeviceDescription({"processor": "here"}, {"torch": "2.6"})


@pytest.fixture
def settings(tmp_path: Path, cache_of_networks: Path) -> Settings:
    return load_settings(home=tmp_path, cache_dir=cache_of_networks, device_silent_seconds=2, public_url=None)


@pytest.fixture
def claimed(store: SqlStore) -> Callable[..., SearchJob]:
    """Orders a search and claims it."""

    def make(**changes: Any) -> SearchJob:
        spec = SearchSpec.parse(ORDER | changes).model_dump(mode="json")
        store.add_search(spec, name=None, labels={})
        job = store.claim(lease_seconds=600)
        assert job is not None
        return job

    return make


Start = Callable[[str, Callable[[Conditions, Work], Timing]], None]


@pytest.fixture
def start(
    store: SqlStore, settings: Settings, serve: Callable[[FastAPI], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts agents by name, as long as the test lasts."""
    address, over, threads = serve(create_app(store, settings, lambda spec, tenant: {})), threading.Event(), []

    def run(name: str, time_it: Callable[[Conditions, Work], Timing]) -> None:
        with suppress(SystemExit), Mortal(address, over) as link:
            try:
                Agent(link, name, time_it).run()
            except RefusedError as error:
                if error.code != AnotherAgentError.code:
                    raise

    def begin(name: str, time_it: Callable[[Conditions, Work], Timing]) -> None:
        threads.append(threading.Thread(target=run, args=(name, time_it), daemon=True))
        threads[-1].start()
        until(lambda: name in [device.name for device in SqlDevices(store.database).devices("default")])

    monkeypatch.setattr(agent, "AT_ONCE", 32)
    yield begin
    over.set()
    for thread in threads:
        thread.join(60)


@pytest.fixture
def agents(start: Start) -> None:
    """Two agents that time by formulas."""
    for name in ("pi4", "nano"):
        start(name, formula(name))


@pytest.mark.usefixtures("agents")
def test_a_search_is_budgeted_on_two_devices(
    store: SqlStore, settings: Settings, devices: SqlDevices, claimed: Callable[..., SearchJob]
) -> None:
    ended = drive(claimed(), store, settings, devices=devices)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert ended.result is not None
    measured = ended.result["metrics"]["latency_ms"]
    assert set(measured) == {"pi4", "nano"}
    assert measured["nano"] > measured["pi4"] > 0
    assert measured["pi4"] <= 0.8 * ended.result["latency"]["pi4"]["full_ms"] * 1.001
    counts = {device.name: device.measured for device in devices.devices("default")}
    assert counts["pi4"] > 36
    assert {device.failed for device in devices.devices("default")} == {0}
    with TestClient(create_app(store, settings, lambda spec, tenant: {}), base_url="http://127.0.0.1") as client:
        (timed,) = client.get("/v1/devices/pi4").json()["timed"]
    assert timed["measured"] == counts["pi4"]
    assert timed["networks"]["digits_resnet"] > 10
    told = [e.data["reason"] or "" for e in store.events(ended.id, limit=1000) if e.kind is EventKind.STATE]
    assert any(reason.startswith("timing blocks on 'pi4': ") for reason in told)


def test_agents_that_are_processes_of_their_own_budget_one_search(
    store: SqlStore,
    settings: Settings,
    devices: SqlDevices,
    claimed: Callable[..., SearchJob],
    serve: Callable[[FastAPI], str],
) -> None:
    address = serve(create_app(store, settings, lambda spec, tenant: {}))
    command = [sys.executable, "-m", "tests.services.formula_agent", address]
    processes = [subprocess.Popen([*command, name], cwd=Path(__file__).parents[2]) for name in ("pi4", "nano")]
    try:
        until(lambda: len(devices.devices("default")) == 2)
        budgets = [{"metric": "latency_ms", "max": 1000, "device": name} for name in ("pi4", "nano")]
        small = {"name": "digits_resnet", "round_to": 32}
        job = claimed(search_space=small, budgets=budgets, trials={"max": 1}, controls=[])
        ended = drive(job, store, settings, devices=devices)
    finally:
        for process in processes:
            process.kill()
            process.wait(20)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert ended.result is not None
    measured = ended.result["metrics"]["latency_ms"]
    assert measured["nano"] > measured["pi4"] > 0
    assert {device.failed for device in devices.devices("default")} == {0}
    assert all(device.measured > 5 for device in devices.devices("default"))


def test_a_search_whose_network_a_runtime_cannot_load_fails_and_says_so(
    store: SqlStore, settings: Settings, devices: SqlDevices, claimed: Callable[..., SearchJob], start: Start
) -> None:
    def time_it(conditions: Conditions, work: Work) -> Timing:
        if isinstance(work, NetworkWork):
            raise MeasurementError("ONNX Runtime cannot load the network: no operator MatrixExp.")
        return formula("pi4")(conditions, work)

    start("pi4", time_it)
    ended = drive(claimed(budgets=ORDER["budgets"][:1]), store, settings, devices=devices)
    assert ended.state is SearchState.FAILED
    said = r"Device 'pi4' could not time digits_resnet .* asked 3 times: ONNX Runtime cannot load the network: no operator"
    assert re.match(said, str(ended.state_reason))


@pytest.mark.parametrize(("request_it", "state"), [("cancel", SearchState.CANCELLED), ("pause", SearchState.PAUSED)])
def test_a_search_that_waits_for_a_device_stops_when_asked(
    store: SqlStore,
    settings: Settings,
    devices: SqlDevices,
    claimed: Callable[..., SearchJob],
    request_it: str,
    state: SearchState,
) -> None:
    devices.register("default", "pi4", HERE)
    job, requests, ended = claimed(budgets=ORDER["budgets"][:1]), Requests(), []
    thread = threading.Thread(target=lambda: ended.append(drive(job, store, settings, requests=requests, devices=devices)))
    thread.start()

    def reason() -> str:
        return store.get_search(job.id).state_reason or ""

    until(lambda: "waiting for 'pi4'" in reason(), why=reason)
    assert store.get_search(job.id).state is SearchState.PREPARING
    getattr(store, f"request_{request_it}")(job.id)
    getattr(requests, request_it).set()
    thread.join(60)
    assert [found.state for found in ended] == [state]
    assert not devices.has_work("default", "pi4")


SILENT = r"paused: device 'pi4' has been silent since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; resume once its agent runs again"


def resumed(store: SqlStore, search_id: str) -> SearchJob:
    store.request_resume(search_id)
    job = store.claim(lease_seconds=600)
    assert job is not None
    assert job.id == search_id
    return job


def test_a_search_whose_device_stays_away_is_paused_and_goes_on_once_it_is_back(
    store: SqlStore, settings: Settings, devices: SqlDevices, claimed: Callable[..., SearchJob], start: Start
) -> None:
    devices.register("default", "pi4", HERE)
    time.sleep(0.1)
    hasty = settings.model_copy(update={"device_silent_seconds": 0.05, "device_patience_seconds": 0.2})
    paused = drive(claimed(budgets=ORDER["budgets"][:1]), store, hasty, devices=devices)
    assert paused.state is SearchState.PAUSED
    assert re.fullmatch(SILENT, str(paused.state_reason))
    start("pi4", formula("pi4"))
    until(lambda: devices.device("default", "pi4").description != HERE)
    ended = drive(resumed(store, paused.id), store, settings, devices=devices)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason


def test_a_search_whose_device_vanishes_midway_is_paused_and_evaluates_nothing_twice(
    store: SqlStore, settings: Settings, devices: SqlDevices, claimed: Callable[..., SearchJob], start: Start
) -> None:
    gone, by_formula = threading.Event(), formula("pi4")

    def time_it(conditions: Conditions, work: Work) -> Timing:
        if gone.is_set():
            with store.database.write() as session:
                session.execute(update(DeviceRow).values(last_seen_at=store.database.now(-3600)))
            sys.exit()
        return by_formula(conditions, work)

    start("pi4", time_it)
    hasty = settings.model_copy(update={"device_silent_seconds": 60, "device_patience_seconds": 0.2})
    job = claimed(budgets=ORDER["budgets"][:1])
    paused = drive(job, store, hasty, devices=devices, on_trial=lambda trial: gone.set())
    assert paused.state is SearchState.PAUSED, paused.state_reason
    assert re.fullmatch(SILENT, str(paused.state_reason))
    before = {stored.trial.number: stored.trial.outcome for stored in store.trials(job.id) if stored.trial.outcome}
    assert before
    start("pi4", by_formula)
    ended = drive(resumed(store, job.id), store, settings, devices=devices)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    after = {stored.trial.number: stored.trial.outcome for stored in store.trials(job.id)}
    assert {number: after[number] for number in before} == before


def test_a_search_whose_device_has_another_version_is_paused_until_it_has_the_old_one_again(
    store: SqlStore, settings: Settings, devices: SqlDevices, claimed: Callable[..., SearchJob], start: Start
) -> None:
    """Whether that is found when the device is asked again, or by a driver that goes on with the search."""
    start("pi4", formula("pi4"))
    before = devices.device("default", "pi4").description
    small = {"name": "digits_resnet", "round_to": 32}
    budgets = [{"metric": "latency_ms", "max_ratio": 0.95, "device": "pi4"}]
    job = claimed(search_space=small, budgets=budgets, trials={"max": 1}, controls=[])
    heard = settings.model_copy(update={"device_silent_seconds": 600})  # the other version has no agent

    def upgrade(trial: Trial) -> None:
        devices.register("default", "pi4", replace(before, runtimes={"torch": "99"}))

    said = rf"paused: Device 'pi4' has changed: it had torch {re.escape(before.runtimes['torch'])} when .* and has torch 99 "
    paused = drive(job, store, heard, devices=devices, on_trial=upgrade)
    assert paused.state is SearchState.PAUSED, paused.state_reason
    assert re.match(said, str(paused.state_reason))
    scored = {stored.trial.number: stored.trial.outcome for stored in store.trials(job.id) if stored.trial.outcome}
    assert scored
    paused = drive(resumed(store, job.id), store, heard, devices=devices)
    assert paused.state is SearchState.PAUSED
    assert re.match(said, str(paused.state_reason))
    assert not devices.has_work("default", "pi4")
    start("pi4", formula("pi4"))
    until(lambda: devices.device("default", "pi4").description == before)
    ended = drive(resumed(store, job.id), store, settings, devices=devices)
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    after = {stored.trial.number: stored.trial.outcome for stored in store.trials(job.id)}
    assert {number: after[number] for number in scored} == scored


def test_orders_on_devices_that_cannot_are_refused_by_their_field(
    store: SqlStore, settings: Settings, devices: SqlDevices
) -> None:
    devices.register("another", "pi4", HERE)
    patient = settings.model_copy(update={"device_silent_seconds": 600})

    def refused(client: TestClient, **changes: Any) -> tuple[str, str]:
        budgets = [{"metric": "latency_ms", "max": 12, "device": "pi4"}]
        answer = client.post("/v1/searches", json=ORDER | {"budgets": budgets} | changes)
        assert answer.status_code == 422, answer.text
        error = answer.json()["errors"][0]
        return error["pointer"], error["detail"]

    with TestClient(create_app(store, patient, reviewer(patient, devices)), base_url="http://127.0.0.1") as client:
        pointer, detail = refused(client)
        assert pointer == "/budgets/0/device"
        assert "No device is called 'pi4'; known: local." in detail
        devices.register("default", "pi4", HERE)
        pointer, detail = refused(client, latency={"runtime": "onnxruntime"})
        assert pointer == "/latency/runtime"
        assert "Device 'pi4' has no runtime 'onnxruntime'; it has torch" in detail
        budgets = [{"metric": "latency_ms", "max": 12, "device": "pi4"}]
        accepted = client.post("/v1/searches", json=ORDER | {"budgets": budgets})
        assert accepted.status_code == 201, accepted.text
        assert not devices.has_work("default", "pi4"), "nothing is timed at submit"
    hasty = settings.model_copy(update={"device_silent_seconds": 0.05})
    with TestClient(create_app(store, hasty, reviewer(hasty, devices)), base_url="http://127.0.0.1") as client:
        pointer, detail = refused(client)
        assert pointer == "/budgets/0/device"
        assert "was last heard of" in detail
    with closing(store):
        assert store.count_searches() == 1
