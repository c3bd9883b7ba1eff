"""What an agent says to its service."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import httpx

from automl_prune.latency.conditions import DeviceDescription
from services.cli.client import Client
from services.cli.text import Json

_TIMEOUT = httpx.Timeout(30, connect=5)


class Link(Client):
    """The part of the service that agents talk to; raises RefusedError and UnreachableError.

    What registering answered as ``epoch`` goes with everything that is said afterwards.
    """

    _epoch = ""

    def register(self, name: str, description: DeviceDescription) -> Json:
        """Make this device known; the answer has its lease and how long claims may wait."""
        made = self._post("/v1/devices", {"name": name, "description": description.to_json()})
        self._epoch = str(made["epoch"])
        return made

    def claim(self, name: str, most: int, wait_seconds: float) -> list[Json]:
        """Work, or none after a while."""
        wanted = {"most": most, "wait_seconds": wait_seconds}
        items: list[Json] = self._said(f"{_path(name)}/claims", wanted)["items"]
        return items

    def renew(self, name: str, held: Mapping[str, int]) -> list[str]:
        """Say what is still worked at, by id and attempt; returns what need not be gone on with."""
        listed = [{"id": one, "attempt": attempt} for one, attempt in held.items()]
        lost: list[str] = self._said(f"{_path(name)}:renew", {"measurements": listed})["lost"]
        return lost

    def report(self, name: str, measurement_id: str, outcome: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Bring what came of a measurement."""
        self._said(f"{_path(name)}/measurements/{quote(measurement_id, safe='')}", outcome)

    def _said(self, path: str, body: Mapping[str, Any]) -> Json:
        return self._post(path, {"epoch": self._epoch, **body})

    def _post(self, path: str, body: Mapping[str, Any]) -> Json:
        return self._json("POST", path, json=body, timeout=_TIMEOUT)


def _path(name: str) -> str:
    return f"/v1/devices/{quote(name, safe='')}"
