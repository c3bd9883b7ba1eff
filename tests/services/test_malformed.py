"""Bytes that nobody should send, over real sockets: each is refused in words or cut off, and nothing comes of it."""

import contextlib
import gzip
import io
import json
import pickle
import re
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import Base

Order = Callable[..., dict[str, Any]]

GOOD: dict[str, Any] = {
    "search_space": {"name": "toy"},
    "dataset": {"name": "digits", "select_size": 100},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
}
PATHS = {"order": "POST /v1/searches", "check": "POST /v1/searches:validate", "webhook": "POST /v1/webhooks"}
JSON = "Content-Type: application/json"
SILENCE = 1.0
"""Seconds after which a request that may rightly stay unanswered is taken to be so."""
PATIENCE = 60.0
"""Seconds for an answer that must come, however busy the machine."""


def text(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def raw(field: str, value: str) -> bytes:
    """An order with a field written as it stands."""
    return text()[:-1] + f', "{field}": {value}}}'.encode()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil", bytes(10**6))
    return made.getvalue()


def tarred() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        link = tarfile.TarInfo("../link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return made.getvalue()


def tensors(header: Any, size: int | None = None) -> bytes:
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written) if size is None else size) + written + bytes(16)


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t ",
    "a truncated order": text()[:-20],
    "an order and more": text() + b"{}",
    "two orders": text() + b"\n" + text(),
    "a byte order mark": b"\xef\xbb\xbf" + text(),
    "UTF-16": text().decode().encode("utf-16"),
    "UTF-32": text().decode().encode("utf-32"),
    "Latin-1": raw("name", '"caf\u00e9"').decode().encode("latin-1"),
    "overlong UTF-8": b'{"name": "\xc0\xaf"}',
    "CESU surrogates": b'{"name": "\xed\xa0\x80"}',
    "a lone surrogate": raw("name", '"\\ud800"'),
    "a surrogate in a name": raw("\\udc00", "1"),
    "a NUL": raw("name", '"a\\u0000b"'),
    "a bare NUL": b"\0" + text(),
    "a bare control character": raw("name", '"a\tb"'),
    "a deep list": b"[" * 100_000,
    "a deep order": raw("recipe", "{" + '"a": {' * 30 + "}" * 31),
    "a huge integer": raw("seed", "9" * 5000),
    "a large integer": raw("seed", "9" * 30),
    "a huge float": raw("seed", "1e999"),
    "NaN": raw("seed", "NaN"),
    "Infinity": raw("seed", "-Infinity"),
    "a field twice": raw("seed", '1, "seed": 2'),
    "a hidden field twice": raw("seed", '1, "\\u0073eed": 2'),
    "a prototype": raw("__proto__", '{"seed": 1}'),
    "a way out": text(weights="../../../etc/passwd\0.pt"),
    "YAML": b"search_space: {name: toy}\n",
    "a YAML tag": b"!!python/object/apply:os.system [id]",
    "single quotes": b"{'seed': 1}",
    "a comment": b"// order\n" + text(),
    "XML": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "a pickle": pickle.dumps(GOOD),
    "gzip": gzip.compress(text()),
    "a gzip bomb": gzip.compress(bytes(5_000_000)),
    "a zip bomb": zipped(),
    "a tar with a link": tarred()[:9000],
    "safetensors": tensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "a list": b"[]",
    "a number": b"7",
    "a text": b'"order"',
    "null": b"null",
    "too much": b" " * 10_001,
    "a large field": text(name="x" * 9000),
}
HEADS: dict[str, tuple[str, ...]] = {
    "no media type": (),
    "another media type": ("Content-Type: application/x-yaml",),
    "a form": ("Content-Type: multipart/form-data; boundary=x",),
    "a pickle's type": ("Content-Type: application/python-pickle",),
    "two media types": ("Content-Type: text/plain", JSON),
    "a wrong charset": (f"{JSON}; charset=utf-16",),
    "an unknown charset": (f"{JSON}; charset=\x80\xff",),
    "compressed": (JSON, "Content-Encoding: gzip"),
    "compressed in an unknown way": (JSON, "Content-Encoding: zstd, br"),
}
FRAMES: dict[str, tuple[tuple[str, ...], bytes]] = {
    "a negative length": ((JSON, "Content-Length: -1"), b"{}"),
    "a length that is none": ((JSON, "Content-Length: ten"), b"{}"),
    "a length of digits that are none": ((JSON, "Content-Length: ²"), b"{}"),
    "a length without end": ((JSON, "Content-Length: " + "9" * 30), b"{}"),
    "two lengths": ((JSON, "Content-Length: 2", "Content-Length: 200"), b"{}"),
    "a length that is too short": ((JSON, f"Content-Length: {len(text()) - 5}"), text()),
    "length and chunks": ((JSON, "Content-Length: 2", "Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n\r\n"),
    "chunks of no size": ((JSON, "Transfer-Encoding: chunked"), b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk of negative size": ((JSON, "Transfer-Encoding: chunked"), b"-2\r\n{}\r\n0\r\n\r\n"),
    "a chunk longer than it says": ((JSON, "Transfer-Encoding: chunked"), b"2\r\n{}{}{}\r\n0\r\n\r\n"),
    "chunks beyond the limit": ((JSON, "Transfer-Encoding: chunked"), b"400\r\n" + b" " * 1024 + b"\r\n" + b""),
    "an unknown coding": ((JSON, "Transfer-Encoding: gzip"), b"{}"),
    "a header without a colon": ((JSON, "Content-Length: 2", "nonsense"), b"{}"),
    "a header with a NUL": ((JSON, "Content-Length: 2", "X-A: a\0b"), b"{}"),
    "a folded header": ((JSON, "Content-Length: 2", "X-A: a\r\n b"), b"{}"),
    "a header without end": ((JSON, "Content-Length: 2", "X-A: " + "a" * 200_000), b"{}"),
    "headers without end": ((JSON, *(f"X-{i}: a" for i in range(20_000)), "Content-Length: 2"), b"{}"),
}
LINES: dict[str, bytes] = {
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no version": b"POST /v1/searches\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a path without end": b"GET /v1/searches/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path with a NUL": b"GET /v1/searches/a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a way out": b"GET /web/../../settings.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a hidden way out": b"GET /web/..%2f..%2fsettings.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a way out of a search": b"GET /v1/searches/x/artifacts/..%2f..%2fstore HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a surrogate in a path": b"GET /v1/searches/%ED%A0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL in a query": b"GET /v1/searches?strategy=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in a query": b"GET /v1/searches?label=%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another host": b"GET /v1/searches HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a host that is none": b"GET /v1/searches HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "an unknown method": b"SPY /v1/searches HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture
def address(app: FastAPI, serve: Callable[[FastAPI], str]) -> tuple[str, int]:
    host, _, port = serve(app).removeprefix("http://").partition(":")
    return host, int(port)


def count(store: SqlStore) -> dict[str, int]:
    with store.database.read() as session:
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in Base.metadata.sorted_tables}


def is_whole(came: bytes) -> bool:
    """Whether the last answer is there to its end, as far as it says where that is."""
    while came:
        head, _, came = came.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is None or len(came) < int(length[1]):
            return False
        came = came[int(length[1]) :]
    return True


def answers(address: tuple[str, int], request: bytes, patience: float = PATIENCE) -> Iterator[tuple[int, str, bytes]]:
    """Status, media type and body of every answer on one connection, until it is closed or silent for a while."""
    came = b""
    with socket.create_connection(address, timeout=patience) as connection, contextlib.suppress(OSError):
        # It may close in the middle of what is sent, or wait for what was declared and does not come.
        connection.sendall(request)
        while part := connection.recv(1 << 16):
            came += part
            connection.settimeout(patience if is_whole(came) else PATIENCE)
    while came:
        head, _, came = came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", len(came)))
        body, came = came[:length], came[length:]
        yield int(first.split()[1]), headers.get("content-type", ""), body


def refused(address: tuple[str, int], request: bytes, patience: float = PATIENCE) -> list[int]:
    """The statuses that came, all of them refusals in words; none where the connection was cut or nothing came."""
    statuses = []
    for status, media_type, body in answers(address, request, patience):
        assert 400 <= status < 500, (status, body)
        if media_type.startswith("application/problem+json"):
            assert json.loads(body)["status"] == status
        else:
            assert b"Invalid HTTP request" in body, body  # of the HTTP layer, which never got as far as a request
        statuses.append(status)
    return statuses


def request(line: str, headers: tuple[str, ...], body: bytes) -> bytes:
    head = [f"{line} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + body


def untouched(store: SqlStore, before: dict[str, int], address: tuple[str, int]) -> None:
    assert count(store) == before
    healthy = next(answers(address, request("GET /healthz", ("Connection: close",), b"")))
    assert healthy[0] == 200


def test_the_good_order_is_good(address: tuple[str, int], store: SqlStore) -> None:
    good = request(PATHS["order"], (JSON, f"Content-Length: {len(text())}", "Connection: close"), text())
    assert [status for status, *_ in answers(address, good)] == [201]
    assert count(store)["searches"] == 1


@pytest.mark.parametrize("path", PATHS)
def test_bodies(address: tuple[str, int], store: SqlStore, path: str) -> None:
    before = count(store)
    for name, body in BODIES.items():
        sent = request(PATHS[path], (JSON, f"Content-Length: {len(body)}", "Connection: close"), body)
        assert len(refused(address, sent)) == 1, name
        chunked = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in (body[:7], body[7:]) if p) + b"0\r\n\r\n"
        sent = request(PATHS[path], (JSON, "Transfer-Encoding: chunked", "Connection: close"), chunked)
        assert len(refused(address, sent)) == 1, f"{name}, in chunks"
    untouched(store, before, address)


@pytest.mark.parametrize("path", PATHS)
def test_media_types(address: tuple[str, int], store: SqlStore, path: str) -> None:
    before = count(store)
    for name, headers in HEADS.items():
        sent = request(PATHS[path], (*headers, f"Content-Length: {len(text())}", "Connection: close"), text())
        assert refused(address, sent) == [415], name
    untouched(store, before, address)


@pytest.mark.parametrize("name", FRAMES)
def test_frames(address: tuple[str, int], store: SqlStore, name: str) -> None:
    before = count(store)
    headers, body = FRAMES[name]
    refused(address, request(PATHS["order"], headers, body * (20 if name == "chunks beyond the limit" else 1)), SILENCE)
    untouched(store, before, address)


@pytest.mark.parametrize("name", LINES)
def test_request_lines(address: tuple[str, int], store: SqlStore, name: str) -> None:
    before = count(store)
    refused(address, LINES[name], SILENCE)
    untouched(store, before, address)


def test_an_order_that_is_cut_off_is_no_order(address: tuple[str, int], store: SqlStore) -> None:
    before = count(store)
    for length in (1, len(text()) + 1, 9_999):
        refused(address, request(PATHS["order"], (JSON, f"Content-Length: {len(text()) + length}"), text()), SILENCE)
    untouched(store, before, address)
