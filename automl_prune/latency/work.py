"""What a device is asked to time, as data that may travel: a single layer, or a whole network of given widths."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from automl_prune.architecture import Architecture
from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Block


@dataclass(frozen=True)
class NetworkWork:
    """A registered network cut to widths.

    Attributes:
        network: Its registered name.
        num_classes: Of the classifier.
        architecture: What :func:`digest` says of the network; a device whose network of that name is another refuses.
        widths: Channels by group; groups that are not named stay full.
    """

    network: str
    num_classes: int
    architecture: str
    widths: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return vars(self) | {"widths": dict(self.widths)}

    @property
    def full(self) -> "NetworkWork":
        """The network uncut, which all others are timed in turn with."""
        return replace(self, widths=())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NetworkWork":
        """Read :meth:`to_json`'s form; raises MeasurementError."""
        if set(data) != set(cls.__dataclass_fields__) or not isinstance(data["widths"], Mapping):
            raise MeasurementError(f"A network to time has the fields {', '.join(cls.__dataclass_fields__)}.")
        widths = tuple((str(name), int(width)) for name, width in data["widths"].items())
        return cls(str(data["network"]), int(data["num_classes"]), str(data["architecture"]), widths)


def digest(architecture: Architecture) -> str:
    """Tells networks apart by what is cut and timed of them.

    What verification adds is left out: groups that it freezes, and constant costs. A device traces a network, and no more.
    """
    groups = tuple(replace(group, frozen=None) for group in architecture.groups)
    traced = replace(architecture, groups=groups, uncut=0, fixed_macs=0)
    return hashlib.sha256(json.dumps(traced.to_json(), sort_keys=True).encode()).hexdigest()[:16]


Work = Block | NetworkWork


def work_to_json(work: Work) -> dict[str, Any]:
    """Either as JSON data."""
    return work.to_json()


def work_from_json(data: object) -> Work:
    """Read :func:`work_to_json`'s form; raises MeasurementError."""
    if not isinstance(data, Mapping):
        raise MeasurementError("What is to be timed is an object.")
    return NetworkWork.from_json(data) if "network" in data else Block.from_json(data)
