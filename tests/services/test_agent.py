"""Agents over real HTTP: they bring what was asked for, through outages, kills and refusals."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, func, select
from typer.testing import CliRunner

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Block
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.registered import Measurement, MeasurementState
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.storage.keys import ApiKeys, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.tables import DeviceRow, MeasurementRow
from automl_prune.testing.store_devices import GOOD, HOW, PI
from services.agent import agent as agents
from services.api.app import create_app
from services.api.server import Server
from services.cli.app import app as commands
from services.settings import Settings
from tests.services.agents import BLOCKS, known, results
from tests.services.ports import kept_port
from tests.services.waiting import until


def test_an_agent_times_blocks_and_networks_and_says_what_it_cannot(
    app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices, start: Callable[..., None]
) -> None:
    start(serve(app))
    until(known(devices))
    assert devices.device("default", "pi").description == describe_this_machine()
    works = [
        *BLOCKS[:2],
        NetworkWork("digits_resnet", 10, "another"),
        NetworkWork("nothing", 10, "x"),
        Block("linear", inputs=0),
    ]
    batch = devices.add("default", "pi", Conditions(), works, wanted_seconds=60)
    other = devices.add("default", "pi", Conditions(runtime="none"), BLOCKS[:1], wanted_seconds=60)
    done = results(devices, batch)
    for one in done[:2]:
        assert one.state is MeasurementState.DONE, one.error
        assert one.timing is not None
        assert 0 < one.timing.ms < 1000
    assert "is another than the one to be timed" in str(done[2].error)
    assert "is called 'nothing'" in str(done[3].error)
    assert done[4].state is MeasurementState.FAILED
    assert "none" in str(results(devices, other)[0].error)
    pi = devices.device("default", "pi")
    assert (pi.measured, pi.failed) == (2, 4)


def test_an_agent_registers_again_where_it_is_forgotten(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, devices: SqlDevices, start: Callable[..., None]
) -> None:
    start(serve(app), lambda how, work: GOOD)
    until(known(devices))
    with store.database.write() as session:
        session.execute(delete(DeviceRow))
    until(known(devices))
    assert results(devices, devices.add("default", "pi", HOW, BLOCKS, wanted_seconds=60))[-1].timing == GOOD


@contextmanager
def served(app: FastAPI, port: int) -> Iterator[None]:
    server = Server(app, grace_seconds=1, log_level="error")
    listening = socket.create_server(("127.0.0.1", port), reuse_port=True)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(60)


def test_an_agent_outlasts_its_service(
    store: SqlStore,
    settings: Settings,
    devices: SqlDevices,
    start: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agents, "LONGEST_PAUSE", 0.5)
    begun, made = threading.Event(), threading.Event()

    def time_it(how: Conditions, work: Work) -> Timing:
        begun.set()
        made.wait(240)
        return GOOD

    def said(what: str) -> int:
        return sum(what in record.getMessage() for record in caplog.records)

    with kept_port() as port, caplog.at_level("INFO", "automl_prune.agent"):
        start(f"http://127.0.0.1:{port}", time_it)
        until(lambda: said("Trying again until") == 1)
        with served(create_app(store, settings, lambda spec, tenant: {}), port):
            until(known(devices))
            batch = devices.add("default", "pi", HOW, BLOCKS, wanted_seconds=600)
            assert begun.wait(240)
        made.set()  # what was timed while the service was away is brought once it is back
        until(lambda: said("Trying again until") == 2)
        with served(create_app(store, settings, lambda spec, tenant: {}), port):
            assert {(one.timing, one.attempt) for one in results(devices, batch)} == {(GOOD, 1)}
    assert said("answers again") == 2


def test_leases_are_renewed_while_something_takes_long(
    store: SqlStore, settings: Settings, serve: Callable[[FastAPI], str], devices: SqlDevices, start: Callable[..., None]
) -> None:
    seconds, begun, go_on = 15, threading.Event(), threading.Event()
    quick = settings.model_copy(update={"device_lease_seconds": seconds})

    def time_it(how: Conditions, work: Work) -> Timing:
        begun.set()
        go_on.wait(480)
        return GOOD

    def expiry() -> datetime:
        with store.database.read() as session:
            found = session.scalars(select(MeasurementRow)).one().lease_expires_at
        assert found is not None
        return found

    start(serve(create_app(store, quick, lambda spec, tenant: {})), time_it)
    until(known(devices))
    batch = devices.add("default", "pi", HOW, BLOCKS[:1], wanted_seconds=600)
    try:
        assert begun.wait(240)
        before = expiry()
        until(lambda: expiry() > before)
        assert expiry() - before < timedelta(seconds=seconds), "its lease ran out before it was renewed"
    finally:
        go_on.set()
    assert results(devices, batch)[0].attempt == 1


def test_what_is_cancelled_meanwhile_is_left_out(
    store: SqlStore,
    settings: Settings,
    serve: Callable[[FastAPI], str],
    devices: SqlDevices,
    start: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[Work] = []
    begun, cancelled, told = threading.Event(), threading.Event(), threading.Event()
    renew = agents.Agent._renew

    def renewed(agent: agents.Agent) -> None:
        since = cancelled.is_set()
        renew(agent)
        if since:
            told.set()

    def time_it(how: Conditions, work: Work) -> Timing:
        timed.append(work)
        if len(timed) == 1:
            begun.set()
            assert told.wait(240)
        if work == BLOCKS[9]:
            raise MeasurementError("Not this one.")
        return GOOD

    monkeypatch.setattr(agents.Agent, "_renew", renewed)
    start(serve(create_app(store, settings.model_copy(update={"device_lease_seconds": 0.6}), lambda s, t: {})), time_it)
    until(known(devices))
    batch = devices.add("default", "pi", HOW, BLOCKS[:8], wanted_seconds=60)
    assert begun.wait(240)
    devices.cancel("default", batch[0].batch)
    cancelled.set()
    after = devices.add("default", "pi", HOW, BLOCKS[8:10], wanted_seconds=60)
    assert [one.error for one in results(devices, after)] == [None, "Not this one."]
    assert timed == [BLOCKS[0], *BLOCKS[8:10]]
    assert {one.state for one in results(devices, batch)} == {MeasurementState.CANCELLED}


def running(store: SqlStore) -> int:
    query = select(func.count()).select_from(MeasurementRow).where(MeasurementRow.state == "running")
    with store.database.read() as session:
        return session.scalar(query) or 0


@pytest.mark.parametrize(("token", "said"), [("aps_wrong", "unknown, expired or revoked"), ("reader", "scope devices")])
def test_a_wrong_key_ends_an_agent_with_a_reason(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, tmp_path: Path, token: str, said: str
) -> None:
    _, reader = ApiKeys(store.database).create("reader", scopes=[Scope.READ])
    file = tmp_path / "key"
    file.write_text((reader if token == "reader" else token) + "\n")
    done = CliRunner().invoke(commands, ["agent", "--name", "pi", "--server", serve(app), "--key-file", str(file)])
    assert done.exit_code == 2
    assert "does not let this agent in" in done.output
    assert said in done.output


def test_devices_are_listed_by_a_command(app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices) -> None:
    devices.register("default", "pi", PI)
    listed = CliRunner().invoke(commands, ["devices", "--server", serve(app)]).output.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["local", "built"], ["pi", "alive"]]
    assert "onnxruntime 1.20, torch 2.6" in listed[2]
    assert '"name": "pi"' in CliRunner().invoke(commands, ["devices", "--json", "--server", serve(app)]).output


def test_devices_are_removed_by_a_command(app: FastAPI, serve: Callable[[FastAPI], str], devices: SqlDevices) -> None:
    devices.register("default", "pi", PI)
    command = ["devices", "remove", "pi", "--server", serve(app)]
    done = CliRunner().invoke(commands, command)
    assert (done.exit_code, done.output) == (0, "pi is forgotten.\n")
    assert devices.devices("default") == []
    again = CliRunner().invoke(commands, command)
    assert again.exit_code == 2
    assert "There is no device 'pi'" in again.output


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_agent_is_followed_by_another_which_ends_when_told(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, devices: SqlDevices
) -> None:
    midway, killed = threading.Event(), threading.Event()

    class Halting(SqlDevices):
        def record(self, *args: Any, **options: Any) -> Measurement:
            if self.device("default", "pi").measured == 2:
                midway.set()
                killed.wait(240)
            return super().record(*args, **options)

    app.state.devices = Halting(store.database)
    command = [sys.executable, "-m", "services.cli", "agent", "--name", "pi", "--server", serve(app)]
    first = subprocess.Popen(command)
    processes: list[subprocess.Popen[Any]] = [first]
    try:
        until(known(devices))
        batch = devices.add("default", "pi", Conditions(), BLOCKS[:12], wanted_seconds=600)
        assert midway.wait(240)
        first.kill()
        first.wait(60)
        assert (devices.device("default", "pi").measured, running(store)) == (2, 2)
        killed.set()
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        processes.append(second)
        found = results(devices, batch)
        assert {one.state for one in found} == {MeasurementState.DONE}
        assert {one.attempt for one in found} == {1, 2}
        assert devices.device("default", "pi").measured == len(batch)
        second.send_signal(signal.SIGTERM)
        said = second.communicate(timeout=120)[1]
    finally:
        killed.set()
        for process in processes:
            process.kill()
            process.wait(60)
    assert second.returncode == 0, said
    assert "pi stopped." in said
    assert "Traceback" not in said
