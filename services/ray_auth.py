"""Ray runs whatever is sent to it: the one started here takes a token, and an open cluster of others is not used."""

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from automl_prune.errors import UserError
from services.home import make_home
from services.settings import PREFIX, Settings

TOKEN_FILE = "ray-token"
PROBE_SECONDS = 5.0
_TRIES = 3
"""Of a head that is slow, before it is not used."""
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"
_SECRETS = frozenset(
    {
        *(
            PREFIX + name
            for name in ("DATABASE_URL", "DATABASE_URL_FILE", "DATABASE_PASSWORD_FILE", "BOOTSTRAP_KEY_FILE", "KEY")
        ),
        "RAY_AUTH_TOKEN",
    }
)
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}")
_REFUSALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_ODDITIES = {grpc.StatusCode.DEADLINE_EXCEEDED: "takes too long to answer"}
_ASK = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def variables(home: Path) -> dict[str, str]:
    """What a Ray of this service and all who talk to it have in their environment; makes the token at the first call.

    The file is below the service's home and its owner's alone. Ray itself would write one that everybody here may read.
    """
    return {_MODE: "token", _TOKEN: str(_token_file(home))}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for Ray, whose workers need no database and inherit everything it has."""
    return {name: value for name, value in environment.items() if name not in _SECRETS}


@contextlib.contextmanager
def own_ray(home: Path) -> Iterator[None]:
    """The environment in which this process starts a Ray of its own: with our token, and no secrets for it to inherit."""
    before = {name: os.environ.pop(name, None) for name in (*_SECRETS, _MODE, _TOKEN)}
    # no mode: once imported, Ray heeds only one that it sets itself, and for a Ray of its own it sets this one
    os.environ[_TOKEN] = variables(home)[_TOKEN]
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def require_closed(settings: Settings) -> None:
    """Raise UserError when the configured cluster answers without a token, or does not say, unless that is known to be so.

    A cluster that is away is left for whoever connects to it.
    """
    address = settings.ray_address
    if is_private(settings) or address is None or settings.allow_open_ray:
        return
    if not _ADDRESS.fullmatch(address):
        raise UserError(f"Name the Ray cluster as HOST:PORT, not {address!r}, so that it can be asked whether it is open.")
    if not answers_anybody(address):
        return
    raise UserError(
        f"The Ray cluster at {settings.ray_address} does what anybody tells it who can reach it, without a token: start its "
        f"nodes with RAY_AUTH_MODE=token and set that and RAY_AUTH_TOKEN_PATH here, too, or set "
        f"{PREFIX}ALLOW_OPEN_RAY=1 where only this service can reach it."
    )


def is_private(settings: Settings) -> bool:
    """Whether Ray is one that this service starts for itself."""
    return settings.ray_address in (None, "local")


def answers_anybody(address: str) -> bool:
    """Whether the head at ``HOST:PORT`` answers a call that carries no token; one that is away does not.

    Raises:
        UserError: It is there, and neither answers nor asks for a token.
    """
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(_ASK, request_serializer=bytes, response_deserializer=bytes)
        for _ in range(_TRIES):
            try:
                ask(b"", timeout=PROBE_SECONDS)
            except grpc.RpcError as error:
                said = error.code()
            else:
                return True
            away = said == grpc.StatusCode.UNAVAILABLE
            if away or said in _REFUSALS or (said == grpc.StatusCode.DEADLINE_EXCEEDED and not _listens(address)):
                return False
    raise UserError(
        f"The Ray cluster at {address} does not say whether it is open to anybody: asked without a token, it "
        f"{_ODDITIES.get(said, f'answers {said.name}')}. Try again, or set {PREFIX}ALLOW_OPEN_RAY=1 where only this service "
        f"can reach it."
    )


def _listens(address: str) -> bool:
    """Whether anybody takes a connection: where a machine is off, nothing but the time says so."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _token_file(home: Path) -> Path:
    """The file, complete from the moment it has its name; of several processes at once one makes it."""
    path = home / TOKEN_FILE
    if not path.exists():
        make_home(home)
        draft = home / f".{TOKEN_FILE}-{secrets.token_hex(8)}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path
