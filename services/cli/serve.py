"""``automl-prune serve``: the HTTP service, and the launcher that runs what it takes in."""

import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from automl_prune.errors import UserError
from services import garbage, logs, ray_auth
from services.cli import children
from services.cli.client import LOOPBACK
from services.cli.database import answering
from services.cli.keys import let_in, opened
from services.cli.options import DataRoot, Home, WeightsRoot
from services.settings import Settings, load_settings

log = logging.getLogger("automl_prune.serve")

GRACE_SECONDS = 10
LAUNCHER_GRACE_SECONDS = 30.0
RESTART_SECONDS = 2.0


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond this machine only with API keys.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    home: Home = None,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    launcher: Annotated[bool, typer.Option(help="Run searches here, too.")] = True,
) -> None:
    """Take searches over HTTP and run them; Ctrl-C stops."""
    settings = load_settings(host=host, port=port, home=home, data_root=data_root, weights_root=weights_root)
    let_in(settings)
    if settings.beyond_this_machine:
        require_keys(settings)
    ray_auth.require_closed(settings)
    listening = listen(settings.host, settings.port)
    logs.configure(settings.log_format)
    with children.stoppable(), listening:
        try:
            with Launched(settings) if launcher else nullcontext():
                _answer(settings, listening)
        except KeyboardInterrupt:
            log.info("stopped")
    _leave()


def _leave() -> NoReturn:
    """End the process at once: everything is closed, and taking libraries apart piece by piece would take seconds."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def require_keys(settings: Settings) -> None:
    """Raise UserError unless there is an API key: without one, whoever reaches the service could run searches."""
    with opened(settings) as keys:
        if not keys.exist():
            where, instead = f"Listening on {settings.host!r}", f"listen on {', '.join(LOOPBACK)}"
            if settings.host in LOOPBACK:
                where, instead = f"The public address {settings.public_url!r}", "unset AUTOML_PRUNE_PUBLIC_URL"
            raise UserError(
                f"{where} would let everyone who gets there run searches: make an API key first, with "
                f"'automl-prune keys create NAME', or {instead}."
            )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of this machine; raises UserError when there is no such address, or the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise UserError(f"Port {port} of {host} cannot be used: {said}; name another with --port or --host.") from None


def _answer(settings: Settings, listening: socket.socket) -> None:
    """Serve until a signal ends it."""
    from automl_prune.storage.sql.devices import SqlDevices
    from services.api.app import create_app
    from services.api.server import Server
    from services.database import warn_if_open
    from services.wiring import open_store, reviewer

    with answering():
        store = open_store(settings)
    warn_if_open(settings)
    app = create_app(store, settings, reviewer(settings, SqlDevices(store.database)))
    garbage.spare_what_is_here()
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"automl-prune is listening on http://{name}:{listening.getsockname()[1]}")
    Server(app, grace_seconds=GRACE_SECONDS).run(sockets=[listening])


class Launched:
    """The launcher as a child process, for the length of a ``with`` block; started again when it dies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.child = self._start()
        self._watcher.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over.set()
        children.end(self.child, LAUNCHER_GRACE_SECONDS)
        self._watcher.join()

    def _start(self) -> subprocess.Popen[bytes]:
        return children.start("services.launcher", settings=self._settings)

    def _watch(self) -> None:
        while True:
            with self.child as child:
                code = child.wait()
            if self._over.wait(RESTART_SECONDS):
                return
            with self._lock:
                if self._over.is_set():
                    return
                log.warning("the launcher ended with exit code %d; starting it again", code)
                self.child = self._start()
