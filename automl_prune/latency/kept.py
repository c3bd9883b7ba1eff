"""What is kept of devices' measurements, summed up for those who list devices."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from automl_prune.errors import MeasurementError
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.times import Times


@dataclass
class _Kept:
    """The times of one device under one set of conditions; summed up anew when there are more."""

    device: DeviceDescription
    conditions: Conditions
    times: Times
    errors: list[float] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=lambda: {"measured": 0})

    @classmethod
    def read(cls, about: Path) -> "_Kept":
        data = json.loads(about.read_text())
        device = DeviceDescription.from_json(data["device"])
        return cls(device, Conditions.from_json(data["conditions"]), Times(about.parent, about.stem))

    def sum_up(self) -> dict[str, Any]:
        """The conditions, and how much of what was timed, how noisily."""
        known, measured = self.times.known, self.times.measured
        if measured != self.summary["measured"]:
            networks = Counter(json.loads(work).get("network") for work in known)
            self.errors = [timing.error for timing in known.values()]
            self.summary = {
                **self.conditions.to_json(), "version": self.device.runtimes.get(self.conditions.runtime),
                "blocks": networks.pop(None, 0), "networks": dict(sorted(networks.items())),
                "measured": measured, "noise": median(self.errors),
            }  # fmt: skip
        return self.summary


class KeptTimes:
    """All that is kept in a folder; looks again, at what was added, whenever it is asked. Thread-safe.

    Args:
        folder: As of :class:`~automl_prune.latency.times.Times`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._kept: dict[Path, _Kept | None] = {}

    def of(self, device: DeviceDescription, **facts: str) -> tuple[list[dict[str, Any]], float | None]:
        """What is kept of a device, by conditions, and the median relative standard error of all of it; None without any.

        Args:
            device: As it is now; what was timed when it was another machine is left out.
            facts: Of its fingerprint besides.
        """
        fingerprint, summaries, errors = {**device.fingerprint, **facts}, list[dict[str, Any]](), list[float]()
        with self._lock:
            for about in sorted(self._folder.glob("*.json")):
                kept = self._at(about)
                if kept and kept.device.fingerprint == fingerprint and kept.sum_up()["measured"]:
                    summaries.append(kept.sum_up())
                    errors += kept.errors
        by = sorted(summaries, key=lambda one: [str(one[name]) for name in (*Conditions.__dataclass_fields__, "version")])
        return by, median(errors) if errors else None

    def _at(self, about: Path) -> _Kept | None:
        if about not in self._kept:
            try:
                self._kept[about] = _Kept.read(about)
            except (OSError, ValueError, TypeError, KeyError, MeasurementError):  # of another version
                self._kept[about] = None
        return self._kept[about]
