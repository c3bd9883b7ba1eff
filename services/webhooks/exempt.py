"""Hosts that an operator lets webhooks reach, though they are private: everybody's, or one tenant's, on one port or all.

An entry is ``HOST``, ``HOST:PORT``, ``TENANT=HOST`` or ``TENANT=HOST:PORT``; IPv6 addresses before a port stand in brackets.
"""

from collections.abc import Collection, Iterable


def of_tenant(entries: Iterable[str], tenant: str) -> frozenset[str]:
    """What a tenant may reach: hosts, and hosts with a port."""
    split = [entry.rpartition("=") for entry in entries]
    return frozenset(where for whose, named, where in split if not named or whose == tenant)


def covers(exempt: Collection[str], host: str, port: int) -> bool:
    """Whether a host is among them, on this port."""
    written = f"[{host}]" if ":" in host else host
    return any(name in exempt for name in (host, written, f"{written}:{port}"))
