"""Under which conditions a time was taken, and on what: both are part of every number."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from automl_prune.errors import DeviceChangedError, MeasurementError

CPUINFO = Path("/proc/cpuinfo")
TIMED_AS = 4
"""How blocks and networks are made and timed; to be raised when that changes, as times of before are of no use then."""
MOST_FACTS, LONGEST_FACT = 32, 300
"""Of a description that a stranger sends."""


@dataclass(frozen=True)
class Conditions:
    """How networks are run while they are timed.

    Attributes:
        runtime: What runs them, by its registered name.
        batch: Samples in one call; a latency is that of the whole call.
        threads: Threads of the runtime's own pool, each kept on a core where the system can do that.
        dtype: Type of weights and activations.
    """

    runtime: str = "torch"
    batch: int = 1
    threads: int = 1
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Conditions":
        """Read :meth:`to_json`'s form; raises MeasurementError."""
        try:
            conditions = cls(**data)
        except TypeError:
            raise MeasurementError(f"Conditions have the fields {', '.join(cls.__dataclass_fields__)}.") from None
        if not (isinstance(conditions.batch, int) and isinstance(conditions.threads, int)):
            raise MeasurementError("batch and threads of conditions are whole numbers.")
        return conditions


@dataclass(frozen=True)
class DeviceDescription:
    """What a device is, and what can run networks on it.

    Attributes:
        fingerprint: What its speed depends on: processor, instructions, cores, memory, system.
        runtimes: Versions of the runtimes that it has, by name; an accelerator is part of the version of what runs on it.
    """

    fingerprint: Mapping[str, str | int]
    runtimes: Mapping[str, str]

    def key(self, conditions: Conditions) -> str:
        """Names the device under these conditions; another version of the runtime is another key."""
        about = {
            "fingerprint": dict(self.fingerprint),
            "conditions": conditions.to_json(),
            "version": self.runtimes.get(conditions.runtime),
            "timed_as": TIMED_AS,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"fingerprint": dict(self.fingerprint), "runtimes": dict(self.runtimes)}

    @classmethod
    def from_json(cls, data: object) -> "DeviceDescription":
        """Read :meth:`to_json`'s form from a stranger; raises MeasurementError."""
        if not isinstance(data, Mapping) or data.keys() != cls.__dataclass_fields__.keys():
            raise MeasurementError(f"A device is described by {' and '.join(cls.__dataclass_fields__)}.")
        for part, kinds in (("fingerprint", (str, int)), ("runtimes", (str,))):
            facts = data[part]
            if not isinstance(facts, Mapping) or len(facts) > MOST_FACTS:
                raise MeasurementError(f"{part} of a device is an object with at most {MOST_FACTS} fields.")
            for name, value in facts.items():
                if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, kinds):
                    raise MeasurementError(
                        f"Values in {part} of a device are texts{' or whole numbers' * (len(kinds) - 1)}."
                    )
                if max(len(name), len(str(value)) if not isinstance(value, int) else value.bit_length()) > LONGEST_FACT:
                    raise MeasurementError(f"Texts in {part} of a device have at most {LONGEST_FACT} characters.")
        return cls(dict(data["fingerprint"]), dict(data["runtimes"]))


def check_unchanged(name: str, conditions: Conditions, before: DeviceDescription, now: DeviceDescription) -> None:
    """Raise DeviceChangedError unless times that a device takes now are comparable with those that it took before."""
    if before.key(conditions) == now.key(conditions):
        return
    runtime = conditions.runtime
    versions = [f"{runtime} {about.runtimes.get(runtime, 'absent')}" for about in (before, now)]
    was, is_ = dict(before.fingerprint), dict(now.fingerprint)
    differ = sorted(fact for fact in was | is_ if was.get(fact) != is_.get(fact))
    facts = f", and another {', '.join(differ)}" if differ else ""
    remedy = "Make it what it was" if differ else f"Install {versions[0]} there again"
    raise DeviceChangedError(
        f"Device {name!r} has changed: it had {versions[0]} when this search looked at it, and has {versions[1]} now"
        f"{facts}. What is timed from now on cannot be compared with what was. {remedy} and resume the search, or order it "
        f"anew."
    )


@cache
def fingerprint() -> dict[str, str | int]:
    """This machine, as far as its speed depends on it; without names, so that equal machines share what was measured."""
    facts: dict[str, str | int] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
    }
    if vectors := _vector_instructions():
        facts["vectors"] = vectors
    return facts


def _processor() -> str:
    """What the system calls it: a name, the board's where it is one, and on ARM the designs of its cores."""
    pairs = _cpuinfo()
    names = [value for field in ("model name", "Model", "Hardware") for value in [dict(pairs).get(field)] if value]
    # ARM's "model name" says little or is not there at all; the numbers of designer and design tell cores apart.
    designers = [value for field, value in pairs if field == "CPU implementer"]
    designs = [value for field, value in pairs if field == "CPU part"]
    cores = [f"ARM {designer}/{design}" for designer, design in zip(designers, designs, strict=False)]
    return ", ".join(dict.fromkeys([*names, *cores])) or platform.processor() or "unknown"


def _vector_instructions() -> str:
    about = dict(_cpuinfo())
    flags = (about.get("flags") or about.get("Features") or "").split()
    telling = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "asimddp", "sve")
    return " ".join(name for name in telling if name in flags)


@cache
def _cpuinfo() -> tuple[tuple[str, str], ...]:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    pairs = (line.partition(":") for line in lines if ":" in line)
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)
