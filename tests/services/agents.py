"""What tests of agents share: work for them, and waiting for what comes of it."""

import time
from collections.abc import Callable

from automl_prune.latency.blocks import REFERENCE
from automl_prune.latency.registered import Measurement
from automl_prune.latency.work import Work
from automl_prune.storage.sql.devices import SqlDevices

BLOCKS: list[Work] = [REFERENCE.signature.at(8, width) for width in range(4, 24)]


def results(devices: SqlDevices, batch: list[Measurement], *, seconds: float = 60) -> list[Measurement]:
    """All of a batch, once they have ended."""
    deadline = time.monotonic() + seconds
    while len(found := devices.results("default", batch[0].batch, wanted_seconds=60)) < len(batch):
        assert time.monotonic() < deadline, f"{len(found)} of {len(batch)} were measured"
        time.sleep(0.05)
    return found


def known(devices: SqlDevices, name: str = "pi") -> Callable[[], bool]:
    """Whether a device is registered, to be waited for."""
    return lambda: name in [device.name for device in devices.devices("default")]
