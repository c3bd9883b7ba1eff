"""Ray's doors: the one that is started here is closed, and an open one of others is not used unknowingly."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from automl_prune.errors import UserError
from services import ray_auth
from services.cli.app import app
from services.settings import load_settings
from tests.services.waiting import until


def answers(address: str) -> bool:
    """Whether a head that is being started answers by now."""
    with suppress(UserError):
        return ray_auth.answers_anybody(address)
    return False


@pytest.fixture(scope="module")
def open_head() -> Iterator[str]:
    """The address of a Ray that was started as its documentation says, without a word about tokens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += ["--include-dashboard=false", "--num-cpus=0", "--object-store-memory=80000000", f"--temp-dir={folder}"]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        node = subprocess.Popen(
            command,
            env=kept | {"HOME": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = f"127.0.0.1:{port}"
            until(lambda: answers(address) or node.poll() is not None)
            yield address
        finally:
            node.terminate()
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def test_an_open_cluster_is_refused(open_head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_auth.answers_anybody(open_head)
    settings = load_settings(home=tmp_path, ray_address=open_head)
    with pytest.raises(UserError, match=r"RAY_AUTH_MODE=token.*AUTOML_PRUNE_ALLOW_OPEN_RAY=1"):
        ray_auth.require_closed(settings)
    monkeypatch.setenv("AUTOML_PRUNE_RAY_ADDRESS", open_head)
    for command in (["serve", "--port", "0"], ["launch"]):
        ended = CliRunner().invoke(app, [*command, "--home", str(tmp_path)])
        assert ended.exit_code == 2
        assert f"The Ray cluster at {open_head} does what anybody tells it" in ended.stderr
    ray_auth.require_closed(load_settings(home=tmp_path, ray_address=open_head, allow_open_ray=True))


def test_what_cannot_be_asked_is_not_trusted(tmp_path: Path) -> None:
    for address in ("auto", "ray://127.0.0.1:10001", "http://127.0.0.1:8265"):
        with pytest.raises(UserError, match="HOST:PORT"):
            ray_auth.require_closed(load_settings(home=tmp_path, ray_address=address))
    ray_auth.require_closed(load_settings(home=tmp_path))
    ray_auth.require_closed(load_settings(home=tmp_path, ray_address="local"))


def test_a_cluster_that_is_away_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray_auth.require_closed(load_settings(home=tmp_path, ray_address=f"127.0.0.1:{port}"))
    monkeypatch.setattr(ray_auth, "PROBE_SECONDS", 0.5)
    with deaf() as address:
        ray_auth.require_closed(load_settings(home=tmp_path, ray_address=address))


@contextmanager
def deaf() -> Iterator[str]:
    """An address where nobody takes a connection, or refuses one, as where a machine is off."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than may wait: the system answers none after them
            waits = opened.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def head(answer: Callable[[grpc.ServicerContext], None] | None) -> Iterator[str]:
    """The address of something that speaks gRPC, and answers every call so; None: it knows no call."""

    def serve(_: bytes, context: grpc.ServicerContext) -> bytes:
        assert answer is not None
        answer(context)
        return b""

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: object) -> object:
            return grpc.unary_unary_rpc_method_handler(serve) if answer else None

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def refuses(code: grpc.StatusCode) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(code, "no")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_cluster_that_asks_for_a_token_is_closed(tmp_path: Path, code: grpc.StatusCode) -> None:
    with head(refuses(code)) as address:
        ray_auth.require_closed(load_settings(home=tmp_path, ray_address=address))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuses(grpc.StatusCode.INTERNAL), "answers INTERNAL"),
        (None, "answers UNIMPLEMENTED"),
    ],
    ids=["broken", "something else"],
)
def test_a_cluster_that_does_not_say_is_not_taken_for_closed(
    tmp_path: Path, answer: Callable[[grpc.ServicerContext], None] | None, said: str
) -> None:
    with head(answer) as address:
        settings = load_settings(home=tmp_path, ray_address=address)
        with pytest.raises(UserError, match=f"does not say whether it is open.* {said}"):
            ray_auth.require_closed(settings)
        ray_auth.require_closed(settings.model_copy(update={"allow_open_ray": True}))


def test_a_cluster_that_is_there_and_takes_long_is_not_taken_for_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_auth, "PROBE_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, head(lambda context: time.sleep(2)) as slow:
        for address in (slow, f"127.0.0.1:{silent.getsockname()[1]}"):
            with pytest.raises(UserError, match=r"does not say whether it is open.* takes too long to answer"):
                ray_auth.require_closed(load_settings(home=tmp_path, ray_address=address))


def test_a_cluster_that_answers_at_last_is_asked_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_auth, "PROBE_SECONDS", 3.0)
    asked: list[int] = []

    def slow_at_first(context: grpc.ServicerContext) -> None:
        asked.append(1)
        if len(asked) == 1:
            time.sleep(5)

    with head(slow_at_first) as address, pytest.raises(UserError, match="does what anybody tells it"):
        ray_auth.require_closed(load_settings(home=tmp_path, ray_address=address))


def test_the_token_is_its_owners_alone_and_made_once(tmp_path: Path) -> None:
    home = tmp_path / "new"
    with ThreadPoolExecutor(8) as pool:
        found = [f.result() for f in [pool.submit(ray_auth.variables, home) for _ in range(8)]]
    path = home / ray_auth.TOKEN_FILE
    assert found == [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}] * 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert [p.name for p in home.iterdir()] == [ray_auth.TOKEN_FILE]
    path.chmod(0o644)
    ray_auth.variables(home)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (0o600, token)


def test_a_ray_of_this_process_takes_our_token_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"AUTOML_PRUNE_DATABASE_URL": "x", "AUTOML_PRUNE_KEY": "x", "RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"}
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with ray_auth.own_ray(tmp_path):
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / ray_auth.TOKEN_FILE)
        assert not before.keys() & os.environ.keys()
    assert before.items() <= os.environ.items()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_ray_inherits_no_secret() -> None:
    kept = {"PATH": "/bin", "AUTOML_PRUNE_HOME": "/home"}
    secret = {"AUTOML_PRUNE_DATABASE_URL": "x", "AUTOML_PRUNE_DATABASE_PASSWORD_FILE": "x", "AUTOML_PRUNE_KEY": "x"}
    assert ray_auth.without_secrets(kept | secret | {"RAY_AUTH_TOKEN": "x"}) == kept
