"""The port that every runtime implements, and the runtimes by name."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from automl_prune.errors import DeviceError
from automl_prune.latency.blocks import Signature
from automl_prune.latency.conditions import Conditions, DeviceDescription, fingerprint
from automl_prune.latency.layouts import PLAIN, Layout
from automl_prune.latency.timing import Clock, Run, on_the_wall
from automl_prune.registry import Registry


class Runtime(ABC):
    """Something that runs networks on this machine.

    ``name`` is given by the registry; ``help`` is one line for listings.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)

    @abstractmethod
    def version(self) -> str | None:
        """Its version, or None where it cannot run on this machine."""

    @abstractmethod
    def ready(self, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        """A call of the network, warm enough to be timed.

        Args:
            model: In evaluation mode; it may be changed.
            sample: A batch as it is put in, ``[batch, …]``.
            conditions: As agreed.

        Raises:
            MeasurementError: The runtime cannot take the network.
        """

    def layout(self, signature: Signature) -> Layout:
        """How the times of layers of a signature depend on their widths."""
        return PLAIN

    @property
    def clock(self) -> Clock:
        """What takes the time of calls."""
        return on_the_wall

    @contextmanager
    def settled(self, conditions: Conditions) -> Iterator[None]:
        """The process in the state that calls are timed in; torch's number of threads is given back at the end."""
        before = torch.get_num_threads()
        torch.set_num_threads(conditions.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


RUNTIMES: Registry[Runtime] = Registry("runtime", package="automl_prune.latency.runtimes")


def runtimes_here() -> dict[str, str]:
    """Versions of what can run networks on this machine, by name."""
    return {name: version for name in RUNTIMES if (version := RUNTIMES.get(name).version())}


def describe_this_machine() -> DeviceDescription:
    """This machine as a device."""
    return DeviceDescription(fingerprint(), runtimes_here())


def check_runs(description: DeviceDescription, conditions: Conditions, device: str) -> None:
    """Raise DeviceError where the device cannot time networks under the conditions."""
    runtime = RUNTIMES.get(conditions.runtime, pointer="/latency/runtime")
    if conditions.runtime not in description.runtimes:
        raise DeviceError(
            f"Device {device!r} has no runtime {conditions.runtime!r}; it has "
            f"{', '.join(sorted(description.runtimes)) or 'none'}. Install it there, or order one of these.",
            pointer="/latency/runtime",
        )
    if conditions.dtype not in runtime.dtypes:
        raise DeviceError(
            f"Runtime {conditions.runtime!r} takes {' or '.join(runtime.dtypes)}, not {conditions.dtype!r}.",
            pointer="/latency/dtype",
        )
