"""The command line: without a server, against a real one in a process of its own, and how it fails."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from automl_prune.errors import UserError
from automl_prune.export import load_architecture
from automl_prune.loop.spec import SearchSpec
from services.cli import text
from services.cli.app import COMMANDS, app
from services.cli.client import UnreachableError
from services.cli.progress import follow
from services.cli.serve import Launched
from services.cli.specs import read_spec
from services.cli.text import clean
from services.driver import drive
from services.settings import PREFIX, Settings, load_settings
from services.wiring import open_store
from tests.services.sse import Received, received
from tests.services.waiting import until

Call = Callable[..., Any]

ORDER: dict[str, Any] = {
    "name": "tiny",
    "search_space": {"name": "digits_resnet"},
    "base_training": {"epochs": 1},
    "dataset": {"name": "digits", "select_size": 100, "report_size": 100, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "recipe": {"recalibrate_batches": 2},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 0.2},
    "trials": {"max": 2},
    "execution": "inline",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests here, so that the network is described once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def settings(home: Path) -> Settings:
    return load_settings(home=home)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """A service without a launcher; it ends with 0 when it is told to."""
    command = [sys.executable, "-m", "services.cli", "serve", "--no-launcher", "--port", "0", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split()[-1]
        assert [event.event for event in _followed_to_the_stop(line.split()[-1], process)] == ["search.state", "shutdown"]
        assert process.wait(30) == 0
        assert re.fullmatch(r"automl-prune is listening on http://127\.0\.0\.1:\d+\n", line)


def _followed_to_the_stop(server: str, process: subprocess.Popen[str]) -> Iterator[Received]:
    """The events of a search that waits, while the service is told to end."""
    with httpx.Client(base_url=server, timeout=20, trust_env=False) as client:
        order = client.post("/v1/searches", json=ORDER).json()
        with client.stream("GET", f"/v1/searches/{order['id']}/events") as response:
            events = received(response)
            assert next(events).retry == "3000"
            yield next(events)
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            yield from events
            assert time.monotonic() - told < 15


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command and checks its exit code; nothing but the home comes from the environment."""
    monkeypatch.setenv(f"{PREFIX}HOME", str(home))
    for name in ("SERVER", "KEY", "DATABASE_URL", "CACHE_DIR"):
        monkeypatch.delenv(PREFIX + name, raising=False)

    def run(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def ask(call: Call, server: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command against the server."""
    monkeypatch.setenv(f"{PREFIX}SERVER", server)
    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an order, with changes, to a file."""

    def save(**changes: Any) -> Path:
        file = tmp_path / "order.json"
        file.write_text(json.dumps(ORDER | changes))
        return file

    return save


@pytest.fixture(scope="module")
def finished(server: str, settings: Settings) -> str:
    """The id of a search that was submitted to the server and driven to its end."""
    store = open_store(settings)
    store.add_search(SearchSpec.parse(ORDER).model_dump(mode="json"), name="tiny", labels={"team": "edge"})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = drive(job, store, settings)
    assert ended.state == "succeeded", ended.state_reason
    return ended.id


# Without a server ----------------------------------------------------------------------------------------------------


def test_every_command_explains_itself(call: Call) -> None:
    listed = call("--help").output
    for name, command in [item for panel in COMMANDS.values() for item in panel.items()]:
        assert re.search(rf"\b{name}\b", listed)
        assert command.__doc__ is not None
        assert command.__doc__.split()[0] in call(name, "--help").output
    assert call("--version").output.startswith("automl-prune 0.")


@pytest.mark.parametrize(
    ("command", "name"),
    [("spaces", "digits_resnet"), ("strategies", "abc"), ("criteria", "l1"), ("datasets", "digits")],
)
def test_names_are_listed(call: Call, command: str, name: str) -> None:
    items = json.loads(call(command, "--json").stdout)["items"]
    assert name in [item["name"] for item in items]
    assert re.search(rf"^{name} ", call(command).stdout, re.MULTILINE)


def test_the_database_is_upgraded_and_looking_does_not_create_it(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert json.loads(call("db", "current", "--home", folder, "--json").stdout)["revision"] is None
    assert not folder.exists()
    upgraded = json.loads(call("db", "upgrade", "--home", folder, "--json").stdout)
    assert upgraded["revision"] == upgraded["newest"]
    assert json.loads(call("db", "current", "--home", folder, "--json").stdout) == upgraded


def test_a_database_that_cannot_be_opened_is_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", f"sqlite:///{tmp_path}")  # a folder
    for command in (("db", "upgrade"), ("serve", "--no-launcher", "--port", "0")):
        assert "The database cannot be opened: unable to open database file" in call(*command, code=2).stderr


def test_a_port_that_is_taken_is_a_sentence(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 cannot be used" in call("serve", "--port", port, code=2).stderr


def test_a_bad_setting_names_its_variable(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}WORKERS", "none")
    assert "setting AUTOML_PRUNE_WORKERS: " in call("serve", code=2).stderr


def test_run_needs_no_server(call: Call, write: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = json.loads(call("run", write(), "-o", folder, "--json").stdout)
    assert json.loads((folder / "architecture.json").read_text()) == result
    assert result["metrics"]["macs"] <= 747136 / 2
    assert load_architecture(folder / "architecture.json")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert "is not empty" in call("run", write(), "-o", folder, code=2).stderr


def test_run_refuses_what_cannot_be_done_before_it_writes(call: Call, write: Callable[..., Path], tmp_path: Path) -> None:
    refused = call("run", write(budgets=[{"metric": "macs", "max": 10}]), "-o", tmp_path / "out", code=2)
    assert "field /budgets/0: macs of at most 10 cannot be reached" in refused.stderr
    assert not (tmp_path / "out").exists()


# Against a server ----------------------------------------------------------------------------------------------------


def test_a_search_is_ordered_listed_and_cancelled(ask: Call, write: Callable[..., Path]) -> None:
    search = json.loads(ask("submit", write(), "--json").stdout)
    assert (search["state"], search["name"]) == ("queued", "tiny")
    listed = json.loads(ask("list", "--state", "queued", "--strategy", "random", "--json").stdout)["items"]
    assert search["id"] in [item["id"] for item in listed]
    assert re.search(rf"^{search['id']} +tiny +queued +digits_resnet +random +0/2 +– ", ask("list").stdout, re.MULTILINE)
    assert f"/searches/{search['id']}" in ask("show", search["id"]).stdout
    assert "is queued and has no result yet" in ask("best", search["id"], code=2).stderr
    assert "has no model.safetensors (yet); it is queued" in ask("export", search["id"], "-o", "nowhere", code=2).stderr
    assert "is cancelled" in ask("cancel", search["id"]).stdout
    assert "has ended (cancelled)" in ask("cancel", search["id"], code=2).stderr
    assert "cancelled" in ask("watch", search["id"], code=1).stdout


def test_an_order_is_checked(ask: Call, write: Callable[..., Path]) -> None:
    summary = json.loads(ask("validate", write(), "--json").stdout)
    assert (summary["base"]["macs"], summary["evaluations"]) == (747136, 3)
    shown = ask("validate", write()).stdout
    assert re.search(r"^budgets +macs ≤ 374 k", shown, re.MULTILINE)
    assert re.search(r"^time +(unknown: None of your last|about [0-9.]+ s for evaluations)", shown, re.MULTILINE)


def test_each_faulty_field_is_a_sentence(ask: Call, write: Callable[..., Path]) -> None:
    faulty = write(budgets=[{"metric": "macs", "max_ratio": 7}], trials={"mox": 1})
    for command in ("submit", "validate"):
        lines = ask(command, faulty, code=2).stderr.splitlines()
        assert len(lines) == 2
        assert re.match(r"automl-prune: field /budgets/0/max_ratio: Input should be less than or equal to 1", lines[0])
        assert re.match("automl-prune: field /trials/mox: ", lines[1])
    assert "field /query/state/0: " in ask("list", "--state", "quoued", code=2).stderr
    assert "There is no search 'srch_none'" in ask("show", "srch_none", code=2).stderr


def test_a_finished_search_is_looked_at(ask: Call, finished: str) -> None:
    watched = ask("watch", finished)
    assert "succeeded: finished, 3 of 3 candidates, best top1 " in watched.stdout
    assert "control: uniform" in watched.stdout
    quiet = ask("watch", finished, "--json")
    assert json.loads(quiet.stdout)["state"] == "succeeded"
    assert "succeeded" in quiet.stderr
    shown = ask("show", finished).stdout
    assert re.search(r"^budgets +macs ≤ 374 k", shown, re.MULTILINE)
    assert re.search(r"^control: uniform +top1 ", shown, re.MULTILINE)
    assert finished in ask("list", "--label", "team:edge", "--limit", 1).stdout


def test_trials_are_listed(ask: Call, finished: str) -> None:
    items = json.loads(ask("trials", finished, "--json").stdout)["items"]
    assert [t["number"] for t in items] == list(range(len(items)))
    assert {t["arm"] for t in items} == {"preparation", "base", "search", "uniform", "final", "report"}
    searched = json.loads(ask("trials", finished, "--arm", "search", "--state", "complete", "--json").stdout)["items"]
    assert searched == [t for t in items if t["arm"] == "search"]
    assert len(ask("trials", finished, "--limit", 3).stdout.splitlines()) == 4


def test_the_best_network_is_fetched(ask: Call, finished: str, tmp_path: Path) -> None:
    file, weights = tmp_path / "best.json", tmp_path / "best.safetensors"
    result = json.loads(ask("best", finished, "-o", file, "--weights", weights, "--json").stdout)
    assert json.loads(file.read_text()) == result
    network = load_architecture(file, weights)
    assert sum(p.numel() for p in network.parameters()) == result["metrics"]["params"]
    assert re.search(r"^layer1\.0\.conv1 +\d+/16 +█", ask("best", finished).stdout, re.MULTILINE)
    ask("export", finished, "--format", "safetensors", "-o", tmp_path / "small.safetensors")
    ask("export", finished, "--format", "state_dict", "-o", tmp_path / "small.pt")
    assert (tmp_path / "small.safetensors").read_bytes() == weights.read_bytes()
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    assert all(torch.equal(state[name], parameter) for name, parameter in network.named_parameters())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "best.safetensors", "small.pt", "small.safetensors"]


# Failing -------------------------------------------------------------------------------------------------------------


class _Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_server_that_is_not_there_or_not_ours_ends_with_3(call: Call) -> None:
    with HTTPServer(("127.0.0.1", 0), _Stranger) as stranger:
        address = f"http://127.0.0.1:{stranger.server_port}"
        threading.Thread(target=stranger.handle_request).start()
        assert "but not as automl-prune does" in call("list", "--server", address, code=3).stderr
    assert f"No server can be reached at {address}" in call("list", "--server", address, code=3).stderr
    assert "is no server address" in call("list", "--server", "nowhere", code=2).stderr


class _Seen:
    def __init__(self) -> None:
        self.searches: list[dict[str, Any]] = []

    def update(self, search: dict[str, Any]) -> None:
        self.searches.append(search)


def test_following_survives_a_server_that_restarts_but_not_one_that_stays_away() -> None:
    search = {"state": "succeeded"}
    answers: list[dict[str, Any] | None] = [None, None, search]

    def fetch() -> dict[str, Any]:
        answer = answers.pop(0) if answers else None
        if answer is None:
            raise UnreachableError("gone")
        return answer

    seen = _Seen()
    assert follow(fetch, seen, pause=0) == search
    assert seen.searches == [search]
    with pytest.raises(UnreachableError, match="gone"):
        follow(fetch, seen, pause=0, patience=0)


def test_a_search_tells_what_became_of_it(ask: Call, finished: str, settings: Settings) -> None:
    told = [json.loads(line) for line in ask("events", finished).stdout.splitlines()]
    assert (told[0]["state"], told[-1]["event"], told[-1]["state"]) == ("queued", "end", "succeeded")
    assert {event["search_id"] for event in told} == {finished}
    rest = ask("events", finished, "--after", told[-3]["id"]).stdout.splitlines()
    assert [json.loads(line) for line in rest] == told[-2:]
    assert ask("events", finished, "--after", told[-1]["id"]).stdout == ""
    ask("events", "srch_unknown", code=2)
    file = settings.artifacts_root / finished / "search.log"
    file.write_text("one\ntwo\x1b[2J\n")
    assert ask("logs", finished, "--follow").stdout == "one\ntwo [2J\n"


def test_a_launcher_that_dies_is_started_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    launched = Launched(settings)
    with launched:
        first = launched.child
        first.kill()
        first.wait()
        until(lambda: launched.child is not first)
        second = launched.child
        assert second.poll() is None
    assert second.poll() is not None
    assert "the launcher ended with exit code -9; starting it again" in caplog.text


# Reading and writing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("62.7e6", 62.7e6),
        ("5e-4", 5e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("0.5", 0.5),
        ("100", 100),
        ("'1e6'", "1e6"),
        ("2024-01-01", "2024-01-01"),
        ("v1e6", "v1e6"),
        ("1.2.3", "1.2.3"),
        ("null", None),
    ],
)
def test_yaml_numbers_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    file = tmp_path / "order.yaml"
    file.write_text(f"x: {text}")
    read = read_spec(file)["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", b"{", "is not JSON: .* at line 1, column 2"),
        ("a.yaml", b"a: [1", "is not YAML: .* at line 1"),
        ("a.yaml", b"a: .nan", "holds something that JSON cannot say"),
        ("a.yaml", b"a: !!python/object/apply:os.system ['true']", "is not YAML: could not determine a constructor"),
        ("a.yaml", b"a: !!binary aGk=", "holds something that JSON cannot say"),
        ("a.json", b"\xff", "is not UTF-8 at byte 0"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=says):
        read_spec(tmp_path / name)


def test_a_missing_file_is_usage(call: Call) -> None:
    assert "nowhere.json cannot be read: No such file" in call("submit", "nowhere.json", code=2).stderr


def test_foreign_text_is_fit_to_print() -> None:
    assert clean("a\x1b[31mb\nc") == "a [31mb c"


def test_measured_latencies_stand_beside_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"top1": 0.9, "macs": 2e6, "params": 1e4, "search": {"top1": 0.8}}
    result = {
        "provenance": {"objective": "top1"},
        "base_metrics": {"top1": 0.95, "macs": 4e6, "params": 2e4, "latency_ms": {"pi4": 21.5, "local": 2.0}},
        "metrics": row | {"latency_ms": {"pi4": 11.25, "local": 1.5}},
        "controls": {"uniform": row | {"latency_ms": {"pi4": 12.75, "local": 1.75}}},
    }
    text.console().print(text.results(result))
    shown = capsys.readouterr().out
    assert re.search(r"ms on\s+pi4", shown) or "ms on pi4" in shown
    for number in ("21.5", "11.25", "12.75", "1.75"):
        assert number in shown
    bounds = [{"metric": "latency_ms", "device": "pi4", "min": None, "max": 12.0}]
    assert text.budgets(bounds) == "latency_ms on pi4 ≤ 12"
