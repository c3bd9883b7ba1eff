"""What has been timed, kept on disk by device and conditions: shared by searches, and there again after any crash."""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from automl_prune.errors import MeasurementError
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work, work_to_json


class Times:
    """Measurements of one device under one set of conditions.

    Each is a line of a file of JSON; several processes may add to it, and a line that a crash cut off does not count.

    Args:
        folder: Of all devices.
        key: Of the device under the conditions: another version of the runtime is another key.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.file = folder / f"{key}.jsonl"

    def __getitem__(self, work: Work) -> Timing:
        return self._known[_name(work)]

    def __contains__(self, work: object) -> bool:
        return isinstance(work, Work) and _name(work) in self._known

    def missing(self, works: Sequence[Work]) -> list[Work]:
        """Those that are not known yet, each once."""
        return [work for work in dict.fromkeys(works) if work not in self]

    def add(self, work: Work, timing: Timing) -> None:
        """Keep a measurement."""
        self._known[_name(work)] = timing
        line = json.dumps({"work": work_to_json(work), "timing": timing.to_json()}) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            os.write(descriptor, (line if whole else "\n" + line).encode())  # one write: lines of others stay whole
        finally:
            os.close(descriptor)

    @cached_property
    def _known(self) -> dict[str, Timing]:
        known = {}
        for text in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                line = json.loads(text)
                known[json.dumps(line["work"], sort_keys=True)] = Timing.from_json(line["timing"])
            except (ValueError, TypeError, KeyError, MeasurementError):
                continue
        return known


def _name(work: Work) -> str:
    return json.dumps(work_to_json(work), sort_keys=True)
