"""``automl-prune keys``, keys on the way to a server, and sentences where there used to be tracebacks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from automl_prune.errors import UserError
from services.cli.app import app
from services.cli.keys import let_in
from services.cli.serve import require_keys
from services.settings import PREFIX, load_settings

Call = Callable[..., Any]

PASSWORD = "hunter2-and-more"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command in a home of its own and checks its exit code."""
    for name in [n for n in os.environ if n.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path / "home"))

    def run(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


def test_a_key_in_a_file_is_let_in_before_anybody_made_one(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, beyond = tmp_path / "key", load_settings(home=tmp_path / "home", host="0.0.0.0")
    token = call("keys", "token").stdout.strip()
    assert json.loads(call("keys", "list", "--json").stdout)["items"] == [], "it is kept nowhere"
    with pytest.raises(UserError, match="make an API key first"):
        require_keys(beyond)
    file.write_text(f"{token}\n")
    for _ in range(2):
        let_in(beyond.model_copy(update={"bootstrap_key_file": file}))
    require_keys(beyond)
    (listed,) = json.loads(call("keys", "list", "--json").stdout)["items"]
    assert (listed["name"], "admin" in listed["scopes"], token[-4:]) == ("bootstrap", True, listed["hint"])
    file.write_text("hunter2")
    monkeypatch.setenv(f"{PREFIX}BOOTSTRAP_KEY_FILE", str(file))
    refused = call("serve", "--port", "0", code=2)
    assert "no API key" in refused.stderr
    assert "hunter2" not in refused.output


def test_a_key_is_shown_once_listed_and_revoked(call: Call) -> None:
    made = call("keys", "create", "ci", "--tenant", "edge", "--expires", "30", "--max-running", "2")
    token = made.stdout.strip()
    assert re.fullmatch(r"aps_[0-9a-f]{72}", token)
    assert "not shown again" in made.stderr
    (listed,) = json.loads(call("keys", "list", "--json").stdout)["items"]
    assert (listed["name"], listed["tenant"], listed["hint"]) == ("ci", "edge", token[-4:])
    assert listed["scopes"] == ["search:read", "search:write"]
    assert listed["limits"] == {"queued": None, "running": 2, "trials": None, "parallel": None, "priority": 0}
    assert token not in json.dumps(listed)
    shown = call("keys", "list").stdout
    assert listed["id"] in shown
    assert token not in shown
    call("keys", "revoke", listed["id"])
    assert "revoked" in call("keys", "list").stdout
    assert "There is no key" in call("keys", "revoke", "key_none", code=2).stderr


def test_a_key_for_programs_is_json(call: Call) -> None:
    made = json.loads(call("keys", "create", "ops", "--scope", "metrics", "--scope", "admin", "--json").stdout)
    assert re.fullmatch(r"aps_[0-9a-f]{72}", made["key"])
    assert (made["scopes"], made["expires_at"]) == (["admin", "metrics"], None)
    urgent = json.loads(call("keys", "create", "ci", "--max-priority", "7", "--json").stdout)
    assert urgent["limits"]["priority"] == 7
    call("keys", "create", "ci", "--max-priority", "101", code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("ci", "--scope", "root"), "No scope is called 'root'"), (("",), "1 to 200"), (("ci", "--expires", "0"), "expires")],
)
def test_a_key_that_makes_no_sense_is_a_sentence(call: Call, arguments: tuple[str, ...], said: str) -> None:
    assert said in call("keys", "create", *arguments, code=2).stderr


def test_beyond_this_machine_a_key_comes_first(call: Call) -> None:
    refused = call("serve", "--host", "0.0.0.0", "--port", "0", "--no-launcher", code=2)
    assert "automl-prune keys create" in refused.stderr
    assert "0.0.0.0" in refused.stderr


def test_behind_a_proxy_a_key_comes_first(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PUBLIC_URL", "https://prune.example")
    refused = call("serve", "--port", "0", "--no-launcher", code=2)
    assert "automl-prune keys create" in refused.stderr
    assert "'https://prune.example'" in refused.stderr
    assert "unset AUTOML_PRUNE_PUBLIC_URL" in refused.stderr


def test_a_key_that_no_header_takes_is_a_sentence(call: Call) -> None:
    for key in ("schlüssel", "a\nb"):
        assert "API key" in call("list", "--server", "http://127.0.0.1:9", "--key", key, code=2).stderr


@pytest.mark.parametrize(
    "url",
    ["garbage", "postgresql://me:hunter2@db:port/x", "mysql://me:hunter2@db/x", "sqlite://", "://"],
)
def test_a_database_url_that_is_none_is_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url)
    for command in (["db", "current"], ["db", "upgrade"], ["keys", "list"]):
        said = call(*command, code=2).stderr
        assert len(said.splitlines()) == 1
        assert "hunter2" not in said


def test_a_folder_that_is_missing_is_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "sqlite:////none/x.db")
    for command in (["db", "upgrade"], ["keys", "list"]):
        assert "The folder of the database '/none/x.db' does not exist" in call(*command, code=2).stderr
    assert "none" in call("db", "current").stdout


def test_a_file_that_is_no_database_is_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all, but long enough to be read as the header of one\n" * 20)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", f"sqlite:///{tmp_path / 'notes.txt'}")
    for command in (["db", "current"], ["db", "upgrade"], ["keys", "list"]):
        assert "The database cannot be opened: file is not a database" in call(*command, code=2).stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "", "is empty"),
        ("a.json", " \n", "is empty"),
        ("a.yaml", "# nothing yet\n", "is empty"),
        ("a.yaml", "seed: 1\nseed: 2\n", "'seed' is given twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "'seed' is given twice"),
    ],
)
def test_a_spec_that_says_nothing_or_twice_is_a_sentence(
    call: Call, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    assert said in call("submit", tmp_path / name, "--server", "http://127.0.0.1:9", code=2).stderr


class Foreign(BaseHTTPRequestHandler):
    """Answers everything with JSON that is not ours."""

    def do_GET(self) -> None:
        body = b'{"hello": "world", "code": 7}'
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  (the name is http.server's)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_another_kind_of_server_is_a_sentence(call: Call) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for command in (["list"], ["show", "x"], ["show", "missing"], ["trials", "x"], ["best", "x"], ["cancel", "x"]):
            said = call(*command, "--server", f"http://127.0.0.1:{server.server_port}", code=3).stderr
            assert "not as automl-prune does" in said
        server.shutdown()


@pytest.fixture
def served(
    call: Call, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str, Path]]:
    """A service that listens beyond this machine, without a launcher: its address, a key, and what it writes.

    Its database has a password in its URL, which the server of the tests does not look at.
    """
    url = make_url(postgres_url).set(password=PASSWORD)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url.render_as_string(hide_password=False))
    token = call("keys", "create", "ci").stdout.strip()
    log = tmp_path / "service.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "serve", "--no-launcher", "--host", "0.0.0.0", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stream,
        )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    yield f"http://127.0.0.1:{line.strip().rpartition(':')[2]}", token, log
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    log.write_bytes(log.read_bytes() + line.encode() + rest)
    assert token not in log.read_text()
    assert PASSWORD not in log.read_text()
    assert process.returncode == 0, log.read_text()


def test_a_command_sends_its_key_and_nothing_writes_it_down(
    call: Call, served: tuple[str, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, token, log = served
    assert "takes an API key" in call("list", "--server", server, code=2).stderr
    assert "unknown, expired or revoked" in call("list", "--server", server, "--key", token[:-1] + "x", code=2).stderr
    assert json.loads(call("list", "--server", server, "--key", token, "--json").stdout)["items"] == []
    monkeypatch.setenv(f"{PREFIX}KEY", token)
    call("list", "--server", server)
    get = partial(httpx.get, timeout=60)
    said = [get(f"{server}/version").text, get(f"{server}/metrics", headers={"X-API-Key": token}).text]
    said += [get(f"{server}/v1/none?key={token[:20]}", headers={"Authorization": f"Bearer {token}"}).text]
    said += [path.read_text(errors="replace") for path in (tmp_path / "home").rglob("*") if path.is_file()]
    said += [log.read_text(), *arguments()]
    assert not [text for text in said if token in text or token[4:40] in text or PASSWORD in text]


def arguments() -> list[str]:
    """The command lines of all processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(process.read_bytes().decode(errors="replace"))
    return found
