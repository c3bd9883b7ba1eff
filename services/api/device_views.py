"""Devices and their work as JSON."""

from functools import cache
from typing import Any, Literal

from automl_prune.latency.conditions import DeviceDescription
from automl_prune.latency.devices import LOCAL
from automl_prune.latency.kept import KeptTimes
from automl_prune.latency.registered import Measurement, RegisteredDevice
from automl_prune.latency.runtimes.base import describe_this_machine
from services.settings import Settings


def work(one: Measurement) -> dict[str, Any]:
    """A measurement as its agent sees it."""
    return {
        "id": one.id,
        "attempt": one.attempt,
        "state": one.state,
        "conditions": one.conditions.to_json(),
        "work": one.work.to_json(),
        "error": one.error,
    }


def shown(device: RegisteredDevice, settings: Settings, kept: KeptTimes) -> dict[str, Any]:
    """A device with what its agent brought, and what is kept of that for searches."""
    timed, _ = kept.of(device.description, agent=f"{device.tenant}/{device.name}")
    return {
        "name": device.name,
        "kind": "agent",
        "alive": device.silent_seconds <= settings.device_silent_seconds,
        "silent_seconds": round(device.silent_seconds, 1),
        **device.description.to_json(),
        "registered_at": device.registered_at.isoformat(),
        "last_seen_at": device.last_seen_at.isoformat(),
        "measured": device.measured,
        "failed": device.failed,
        "noise": device.noise,
        "timed": timed,
    }


def local(kept: KeptTimes) -> dict[str, Any]:
    """The machine that drives searches, which is taken to be this one; of what failed there nothing is kept."""
    kind: Literal["built-in"] = "built-in"
    about = _here()
    timed, noise = kept.of(about)
    unknown = dict.fromkeys(("silent_seconds", "registered_at", "last_seen_at", "failed"))
    told = {"measured": sum(one["measured"] for one in timed), "noise": noise, "timed": timed}
    return {"name": LOCAL, "kind": kind, "alive": True, **about.to_json(), **unknown, **told}


@cache
def _here() -> DeviceDescription:
    return describe_this_machine()
