"""What tests of agents share: work for them, their end, and waiting for what comes of them."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from automl_prune.latency.blocks import REFERENCE
from automl_prune.latency.registered import Measurement
from automl_prune.latency.work import Work
from automl_prune.storage.sql.devices import SqlDevices
from services.agent.link import Link
from services.cli.text import Json

BLOCKS: list[Work] = [REFERENCE.signature.at(8, width) for width in range(4, 24)]


class Mortal(Link):
    """Ends the thread of its agent once something is over."""

    def __init__(self, server: str, over: threading.Event) -> None:
        super().__init__(server)
        self._over = over

    def claim(self, name: str, most: int, wait_seconds: float) -> list[Json]:
        return super().claim(name, most, min(wait_seconds, 0.5))

    def _post(self, path: str, body: Mapping[str, Any]) -> Json:
        if self._over.is_set() and not path.endswith(":renew"):  # which another thread of the agent says
            sys.exit()
        return super()._post(path, body)


def results(devices: SqlDevices, batch: list[Measurement], *, seconds: float = 240) -> list[Measurement]:
    """All of a batch, once they have ended."""
    deadline = time.monotonic() + seconds
    while len(found := devices.results("default", batch[0].batch, wanted_seconds=60)) < len(batch):
        assert time.monotonic() < deadline, f"{len(found)} of {len(batch)} were measured"
        time.sleep(0.05)
    return found


def known(devices: SqlDevices, name: str = "pi") -> Callable[[], bool]:
    """Whether a device is registered, to be waited for."""
    return lambda: name in [device.name for device in devices.devices("default")]
