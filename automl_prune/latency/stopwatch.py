"""Times work on this machine, each piece in turn with its reference: a standard block, or the full network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.errors import AutomlPruneError, DeviceError, MeasurementError
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.cores import Cores
from automl_prune.latency.runtimes.base import RUNTIMES
from automl_prune.latency.timing import Best, Run, Timing, compare
from automl_prune.latency.work import NetworkWork, Work, digest
from automl_prune.messages import said
from automl_prune.networks import NETWORKS
from automl_prune.surgery.slicing import materialise

BLOCK_LIMITS, NETWORK_LIMITS = (0.02, 60), (0.01, 150)
"""Relative standard error at which timing stops, and the most rounds: a table's blocks are many, and their errors cancel."""
KEPT = 8
"""Networks, references and sets of conditions that stay at hand, the last used of each: agents live long."""


@dataclass(frozen=True)
class TracedNetwork:
    """A network that can be cut: how it is built, and what is known of it."""

    build: Callable[[], nn.Module]
    architecture: Architecture

    @classmethod
    def registered(cls, name: str, num_classes: int) -> "TracedNetwork":
        """A network by name, traced here; raises UserError."""
        definition = NETWORKS.get(name)
        model = definition.build(num_classes)
        return cls(lambda: definition.build(num_classes), trace(model, torch.zeros(1, *definition.input_shape)))

    @cached_property
    def digest(self) -> str:
        """Tells its architecture from others."""
        return digest(self.architecture)

    def cut(self, widths: Mapping[str, int]) -> nn.Module:
        """The network of these widths, in evaluation mode; which weights it has does not matter here."""
        model = self.build().eval()
        groups = self.architecture.by_name
        kept = {name: range(width // groups[name].divisor) for name, width in self.architecture.resolve(widths).items()}
        return materialise(model, self.architecture, kept).eval()

    def sample(self, batch: int) -> Tensor:
        """A batch as the network takes it in."""
        dtype = getattr(torch, self.architecture.input_dtype)
        return torch.zeros(batch, *self.architecture.input_shape, dtype=dtype)


class Stopwatch:
    """Times work under fixed conditions.

    Args:
        conditions: How everything is run.
        networks: Networks that are at hand already, by name; others are built by their registered names, for as many classes
            as the work says.

    Raises:
        DeviceError: The runtime is not on this machine.
    """

    def __init__(self, conditions: Conditions, networks: Mapping[str, TracedNetwork] | None = None) -> None:
        self.conditions = conditions
        self.runtime = RUNTIMES.get(conditions.runtime)
        if self.runtime.version() is None:
            raise DeviceError(f"This machine has no runtime {conditions.runtime!r}.", pointer="/latency/runtime")
        self._cores = Cores(conditions.threads)
        self._given = dict(networks or {})
        self._registered = lru_cache(KEPT)(TracedNetwork.registered)
        self._reference = lru_cache(KEPT)(lambda work: (self._run(work), Best()))

    def time(self, work: Work) -> Timing:
        """One measurement.

        Raises:
            MeasurementError: The runtime cannot take what is to be timed, or it fails.
        """
        precision, most = BLOCK_LIMITS if isinstance(work, Block) else NETWORK_LIMITS
        with self._cores.held(), self.runtime.settled(self.conditions), torch.random.fork_rng(devices=[]):
            try:
                reference, best = self._reference(REFERENCE if isinstance(work, Block) else work.full)
                run = self._run(work)
                return compare(run, reference, best=best, clock=self.runtime.clock, precision=precision, most=most)
            except AutomlPruneError:
                raise
            except Exception as error:  # whatever a runtime raises: this work cannot be timed, others can
                raise MeasurementError(f"{self.conditions.runtime} failed: {said(error)}") from error

    def _run(self, work: Work) -> Run:
        batch = self.conditions.batch
        if isinstance(work, Block):
            return self.runtime.ready(work.build(), torch.zeros(batch, *work.input_shape), self.conditions)
        network = self._network(work)
        return self.runtime.ready(network.cut(dict(work.widths)), network.sample(batch), self.conditions)

    def _network(self, work: NetworkWork) -> TracedNetwork:
        found = self._given.get(work.network)
        if found is None or found.digest != work.architecture:
            found = self._registered(work.network, work.num_classes)
        if found.digest != work.architecture:
            raise MeasurementError(
                f"The network {work.network!r} of this machine is another than the one to be timed; install the same "
                f"version of the package, and of what registers the network, on both."
            )
        return found


class Stopwatches:
    """A stopwatch for each set of conditions, made when first needed and kept: references are timed again and again.

    Args:
        networks: Networks that are at hand already, by name.
    """

    def __init__(self, networks: Mapping[str, TracedNetwork] | None = None) -> None:
        self._made = lru_cache(KEPT)(lambda conditions: Stopwatch(conditions, networks))

    def time(self, conditions: Conditions, work: Work) -> Timing:
        """One measurement on this machine; raises MeasurementError or UserError."""
        return self._made(conditions).time(work)
