"""What has been timed, kept on disk by device and conditions: shared by searches, and there again after any crash."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from automl_prune.errors import MeasurementError
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work, work_to_json

MOST_TRIES = 3
"""How often something is timed whose timings do not settle; the steadiest of them counts then."""


@dataclass(frozen=True)
class Mark:
    """A place in a file of times: what comes later does not count for whom it is set.

    Attributes:
        key: Which file.
        size: Bytes before it.
        sha256: Of these.
    """

    key: str
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


class Times:
    """Measurements of one device under one set of conditions.

    Each is a line of a file of JSON; several processes may add to it, and a line that a crash cut off does not count. Of
    several of the same work the last settled one counts, or else the steadiest.

    Args:
        folder: Of all devices.
        key: Of the device under the conditions: another version of the runtime is another key.
        about: What the key stands for, kept beside the times for those who list them.
        size: Bytes of the file that are read at most; None: all, and what is added meanwhile.
    """

    def __init__(self, folder: Path, key: str, about: Mapping[str, Any] | None = None, *, size: int | None = None) -> None:
        self.key, self.file, self._about, self._size = key, folder / f"{key}.jsonl", about, size
        self._known: dict[str, Timing] = {}
        self._tries: Counter[str] = Counter()
        self._read, self._sha256 = 0, hashlib.sha256()

    @classmethod
    def of(cls, folder: Path, device: DeviceDescription, conditions: Conditions) -> "Times":
        """Those of a device under conditions."""
        about = {"device": device.to_json(), "conditions": conditions.to_json()}
        return cls(folder, device.key(conditions), about)

    @property
    def mark(self) -> Mark:
        """How far the file goes now."""
        self._catch_up()
        return Mark(self.key, self._read, self._sha256.hexdigest())

    def until(self, mark: Mark) -> "Times":
        """Those before a place in the file, which is only ever added to."""
        return Times(self.file.parent, self.key, size=mark.size)

    @property
    def known(self) -> Mapping[str, Timing]:
        """The timings that count, by what was timed as JSON."""
        self._catch_up()
        return self._known

    @property
    def measured(self) -> int:
        """How many timings there are, those of the same work included."""
        self._catch_up()
        return self._tries.total()

    def __getitem__(self, work: Work) -> Timing:
        self._catch_up()
        return self._known[_name(work)]

    def __contains__(self, work: object) -> bool:
        self._catch_up()
        return isinstance(work, Work) and _name(work) in self._known

    def missing(self, works: Sequence[Work]) -> list[Work]:
        """Those that are yet to be timed, each once: unknown to every process, or not settled and not given up."""
        self._catch_up()
        return [work for work in dict.fromkeys(works) if not self._is_enough(_name(work))]

    def add(self, work: Work, timing: Timing) -> None:
        """Keep a measurement."""
        line = json.dumps({"work": work_to_json(work), "timing": timing.to_json()}) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._tell_about()
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            os.write(descriptor, (line if whole else "\n" + line).encode())  # one write: lines of others stay whole
        finally:
            os.close(descriptor)

    def _tell_about(self) -> None:
        told = self.file.with_suffix(".json")
        if self._about is not None and not told.exists():
            draft = told.with_suffix(f".{os.getpid()}.part")
            draft.write_text(json.dumps(self._about))
            draft.replace(told)

    def _is_enough(self, name: str) -> bool:
        return name in self._known and (self._known[name].settled or self._tries[name] >= MOST_TRIES)

    def _catch_up(self) -> None:
        """Read what was added to the file since, by whichever process."""
        if self._read == self._size or not self.file.exists() or self.file.stat().st_size <= self._read:
            return
        with self.file.open("rb") as stream:
            stream.seek(self._read)
            added = stream.read(-1 if self._size is None else self._size - self._read)
        whole = added[: added.rfind(b"\n") + 1]  # the last line may still be written
        self._read += len(whole)
        self._sha256.update(whole)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
                name, timing = json.dumps(line["work"], sort_keys=True), Timing.from_json(line["timing"])
            except (ValueError, TypeError, KeyError, MeasurementError):
                continue
            self._tries[name] += 1
            before = self._known.get(name)
            if before is None or timing.settled or (not before.settled and timing.error <= before.error):
                self._known[name] = timing


def _name(work: Work) -> str:
    return json.dumps(work_to_json(work), sort_keys=True)
