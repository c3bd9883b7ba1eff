"""The service over HTTP: JSON in and out, problems as exceptions that read as sentences."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from automl_prune.errors import FieldError
from services.cli.text import Json

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = 200
_STREAM_TIMEOUT = httpx.Timeout(60, connect=5)  # an open stream is never silent for longer than 15 s
_PAUSES = (0.5, 2.0)
"""Seconds before an order is sent again."""
_TIMEOUT = httpx.Timeout(600, connect=5)  # a network that nobody ordered before is traced and verified on submit


class RefusedError(Exception):
    """The server refused a request, for ``code``; ``errors`` names the fields that are at fault, where some are."""

    def __init__(self, status: int, detail: str, errors: tuple[FieldError, ...] = (), code: str = "") -> None:
        super().__init__(detail)
        self.status, self.errors, self.code = status, errors, code


class UnreachableError(Exception):
    """Nobody answers at the server's address, or not as this service does."""


class FaultError(UnreachableError):
    """The server was reached, and failed at what it was asked."""


class LostError(UnreachableError):
    """The server was reached, but what it answered was not, or it could not answer just now."""


class Client:
    """Calls the service at ``server``; raises RefusedError and UnreachableError.

    Args:
        server: Its address, such as ``http://127.0.0.1:8422``.
        key: Sent as a bearer token when given.
    """

    def __init__(self, server: str, key: str | None = None) -> None:
        self.server = server.rstrip("/")
        try:
            address = httpx.URL(self.server)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise RefusedError(0, f"{server!r} is no server address; write one like http://127.0.0.1:8422.")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise RefusedError(0, "An API key is aps_ and 72 letters and digits; this one has other characters.")
        self._http = httpx.Client(
            base_url=self.server,
            timeout=_TIMEOUT,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=address.host not in LOOPBACK,  # a proxy cannot reach this machine's own addresses
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def submit(self, spec: object) -> Json:
        """Order a search, once: an order whose answer got lost is sent again under the same key."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        for pause in _PAUSES:
            try:
                return self._json("POST", "/v1/searches", json=spec, headers=key)
            except LostError:
                time.sleep(pause)
        return self._json("POST", "/v1/searches", json=spec, headers=key)

    def validate(self, spec: object) -> Json:
        """Check an order without placing it."""
        return self._json("POST", "/v1/searches:validate", json=spec)

    def searches(self, limit: int, filters: Mapping[str, Any]) -> list[Json]:
        """The newest searches, at most ``limit``."""
        return self._items("/v1/searches", limit, filters)

    def search(self, search_id: str) -> Json:
        """One search."""
        return self._json("GET", _path(search_id))

    def trials(self, search_id: str, limit: int | None, filters: Mapping[str, Any]) -> list[Json]:
        """A search's trials in order of number, at most ``limit``."""
        return self._items(f"{_path(search_id)}/trials", limit, filters)

    def attempts(self, search_id: str) -> list[Json]:
        """Every time a driver took a search up, oldest first."""
        items: list[Json] = self._json("GET", f"{_path(search_id)}/attempts")["items"]
        return items

    def best(self, search_id: str) -> Json:
        """The architecture JSON of a finished search."""
        return self._json("GET", f"{_path(search_id)}/best")

    def devices(self) -> list[Json]:
        """What latency can be measured on."""
        items: list[Json] = self._json("GET", "/v1/devices")["items"]
        return items

    def remove_device(self, name: str) -> None:
        """Have a device forgotten."""
        self._json("DELETE", f"/v1/devices/{quote(name, safe='')}")

    def cancel(self, search_id: str) -> Json:
        """Stop a search."""
        return self._json("POST", f"{_path(search_id)}:cancel")

    def pause(self, search_id: str) -> Json:
        """Let a search rest."""
        return self._json("POST", f"{_path(search_id)}:pause")

    def resume(self, search_id: str) -> Json:
        """Let a paused search go on."""
        return self._json("POST", f"{_path(search_id)}:resume")

    def events(self, search_id: str, after: str | None, opened: Callable[[], None] = lambda: None) -> Iterator[Json]:
        """What happens to a search after an event, or from its beginning, to its end or the server's.

        ``opened`` is called once the server has begun to tell.
        """
        place = {"Last-Event-ID": after} if after else {}
        with self._stream(f"{_path(search_id)}/events", place, _STREAM_TIMEOUT) as response:
            opened()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def log(self, search_id: str, offset: int | None) -> tuple[str, int]:
        """A piece of a search's log, and where the next one begins; with no ``offset`` the last one there is."""
        with self._stream(f"{_path(search_id)}/logs{'' if offset is None else f'?offset={offset}'}", {}) as response:
            return response.read().decode(errors="replace"), int(response.headers["Log-Next-Offset"])

    def download(self, search_id: str, name: str, target: Path) -> None:
        """Fetch a file of a search; ``target`` appears complete and with the recorded SHA-256, or not at all."""
        files = {item["name"]: item for item in self._json("GET", f"{_path(search_id)}/artifacts")["items"]}
        if name not in files:
            state = self.search(search_id)["state"]
            raise RefusedError(404, f"Search {search_id} has no {name} (yet); it is {state}.")
        digest = hashlib.sha256()
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with draft.open("wb") as file, self._stream(f"{_path(search_id)}/artifacts/{quote(name)}") as response:
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != files[name]["sha256"]:
                raise UnreachableError(
                    f"{name} arrived damaged (its SHA-256 differs from the recorded one); fetch it again."
                )
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _items(self, path: str, limit: int | None, filters: Mapping[str, Any]) -> list[Json]:
        wanted = {name: value for name, value in filters.items() if value not in (None, [])}
        items: list[Json] = []
        token: str | None = None
        while limit is None or len(items) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(items))
            query = {**wanted, "limit": size, **({"page_token": token} if token else {})}
            page = self._json("GET", path, params=query)
            items += page["items"]
            token = page["next_page_token"]
            if token is None:
                break
        return items

    def _json(self, method: str, path: str, **options: Any) -> Json:
        with self._reached():
            response = self._http.request(method, path, **options)
            return _checked(response, self.server)

    @contextmanager
    def _stream(
        self, path: str, headers: Mapping[str, str] = MappingProxyType({}), timeout: httpx.Timeout = _TIMEOUT
    ) -> Iterator[httpx.Response]:
        with self._reached(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
                _checked(response, self.server)
            yield response

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise UnreachableError(f"{self.server} does not answer in time.") from None
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            raise LostError(f"{self.server} closed the connection before it answered ({error}).") from None
        except httpx.TransportError as error:
            hint = "start one with 'automl-prune serve', or name another with --server"
            raise UnreachableError(f"No server can be reached at {self.server} ({error}); {hint}.") from None


def _path(search_id: str) -> str:
    return f"/v1/searches/{quote(search_id, safe='')}"


def _checked(response: httpx.Response, server: str) -> Json:
    """The answer's JSON object, empty where there is none.

    Raises RefusedError for a problem and UnreachableError for what no such service sends.
    """
    try:
        data = {} if response.status_code == 204 else response.json()
    except ValueError:
        data = None
    foreign = "automl-prune-api" not in response.headers
    if foreign or not isinstance(data, dict) or (response.is_error and "code" not in data) or response.is_redirect:
        raise UnreachableError(f"{server} answers (status {response.status_code}), but not as automl-prune does.")
    if response.status_code >= 500:
        cls = LostError if response.status_code in (502, 503, 504) else FaultError
        raise cls(f"{server}: {data['detail']} (request {data.get('request_id')})")
    if response.is_error:
        errors = tuple(FieldError(e["pointer"], e["detail"], e["code"]) for e in data.get("errors", ()))
        raise RefusedError(response.status_code, data["detail"], errors, data["code"])
    return data
