"""Requests to addresses that strangers name: to public ones only, whatever a name means at which moment.

A server that fetches what it is told to can be sent to its own neighbours (server-side request forgery). So names are
resolved here, all their addresses are checked, the connection goes to a checked one and not to the name again, and the
address at its other end is checked once more. There are no redirects and no proxies.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpcore

from automl_prune.errors import UserError
from services.webhooks.exempt import covers

SECONDS = 5.0
"""For a request as a whole, from looking up its host to the end of the answer."""
MOST_BYTES = 65_536
"""Of an answer, its headers included."""

_LONGEST_URL = 2000
# Networks whose addresses stand for other ones, which a gateway may lead to.
_TUNNELS = [ipaddress.ip_network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "::/96")]


class RefusedAddressError(UserError):
    """An address that this service does not send anything to."""

    code = "refused_address"


def read_url(url: str, exempt: Collection[str]) -> tuple[str, int] | None:
    """The host and port of an address, for :func:`check_name`, None for an exempt one; raises RefusedAddressError.

    What is exempt, as :func:`services.webhooks.exempt.of_tenant` tells it, may be private, and takes http.
    """
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise _refused(f"is ASCII, without spaces, and has at most {_LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        raise _refused("is a URL like https://example.org/hook") from None
    is_exempt = covers(exempt, host, port)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_exempt):
        raise _refused("begins with https://")
    if not host or "%" in host or parts.username is not None or parts.password is not None or parts.fragment:
        raise _refused("names a host, and neither a user, a password nor a fragment")
    return None if is_exempt else (host, port)


def check_name(host: str, port: int, look_up: Callable[[str, int], Sequence[str]] | None = None) -> None:
    """Raise RefusedAddressError for a host that leads to a private network now; this takes as long as looking it up does."""
    try:
        addresses = (look_up or resolve)(host, port)
    except OSError:
        return  # perhaps it is there later; what it is then is checked then
    if not all(map(is_public, addresses)):
        raise _refused("leads to a private network; its operator can allow that host with AUTOML_PRUNE_WEBHOOK_HOSTS")


def _refused(why: str) -> RefusedAddressError:
    return RefusedAddressError(f"A webhook's address {why}.", pointer="/url")


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, and no other one in disguise."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.is_site_local or any(ip in network for network in _TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast


def post(url: str, body: bytes, headers: Mapping[str, str], exempt: Collection[str]) -> int:
    """Send a body, and return the answer's status; what the answer says is not looked at.

    Raises:
        RefusedAddressError: The address is not one that anything is sent to.
        OSError, httpcore's errors: It did not work, in time or within the limit.
    """
    authorities = _authorities()  # read before the time begins
    budget = _Budget()
    if (named := read_url(url, exempt)) is not None:
        check_name(*named, budget.resolved)
    backend = _Guarded(exempt, budget)
    with (
        httpcore.ConnectionPool(ssl_context=authorities, network_backend=backend, retries=0) as pool,
        pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
    ):
        for _ in response.iter_stream():
            pass
        return response.status


@cache
def _authorities() -> ssl.SSLContext:
    """Who may vouch for receivers; read once, as that takes a while."""
    return ssl.create_default_context()


class _Guarded(httpcore.NetworkBackend):
    """Connects to checked addresses, for a limited time."""

    def __init__(self, exempt: Collection[str], budget: "_Budget") -> None:
        self._exempt, self._budget = exempt, budget
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to one of the host's addresses, if all of them are public."""
        addresses, is_exempt = self._budget.resolved(host, port), covers(self._exempt, host, port)
        if not is_exempt and not all(map(is_public, addresses)):
            raise RefusedAddressError(f"{host} leads to a private network.")
        stream = self._connected(addresses, port)
        peer = stream.get_extra_info("server_addr")
        if not is_exempt and not (peer and is_public(str(peer[0]))):
            stream.close()
            raise RefusedAddressError(f"{host} leads to a private network.")
        return _Limited(stream, self._budget)

    def _connected(self, addresses: list[str], port: int) -> httpcore.NetworkStream:
        for address in addresses[:-1]:
            try:
                return self._backend.connect_tcp(address, port, timeout=self._budget.seconds() / 2)
            except httpcore.ConnectError:
                continue
        return self._backend.connect_tcp(addresses[-1], port, timeout=self._budget.seconds())


class _Budget:
    """What is left of a request's time, and of the bytes it may bring."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SECONDS
        self._bytes = MOST_BYTES

    def seconds(self) -> float:
        """Time that is left; raises ReadTimeout when there is none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout(f"It took longer than {SECONDS:g} seconds.")
        return left

    def resolved(self, host: str, port: int) -> list[str]:
        """The addresses of a host; raises OSError, and ConnectTimeout when nobody knows them in time.

        A look-up cannot be broken off; one that nobody waits for any more ends when the resolver gives up.
        """
        found: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(resolve(host, port))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=look_up, name="name", daemon=True).start()
        if not wait([found], self.seconds()).done:
            raise httpcore.ConnectTimeout(f"{host} could not be looked up in time.")
        return found.result()

    def take(self, count: int) -> None:
        """Note bytes that came; raises ReadError when they are too many."""
        self._bytes -= count
        if self._bytes < 0:
            raise httpcore.ReadError(f"The answer has more than {MOST_BYTES} bytes.")


class _Limited(httpcore.NetworkStream):
    """A connection whose reads and writes share one budget."""

    def __init__(self, stream: httpcore.NetworkStream, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there."""
        found = self._stream.read(max_bytes, self._budget.seconds())
        self._budget.take(len(found))
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        self._stream.write(buffer, self._budget.seconds())

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Go on encrypted."""
        return _Limited(self._stream.start_tls(ssl_context, server_hostname, self._budget.seconds()), self._budget)

    def get_extra_info(self, info: str) -> Any:
        """What is known about the connection."""
        return self._stream.get_extra_info(info)
