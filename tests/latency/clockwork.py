"""A device whose times follow a formula, so that what is made of times can be checked exactly."""

import math
from collections.abc import Sequence

from automl_prune.errors import DeviceError
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import OnTiming
from automl_prune.latency.signatures import layers_alike
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.space import ChannelSpace


def block_ms(block: Block) -> float:
    """Grows with the widths, and is twice as slow where the inputs fill no vectors of 16."""
    area = math.prod(block.size) / math.prod(block.stride or (1,))
    work = area * math.prod(block.kernel) * block.inputs * (1 if block.tied else block.outputs)
    return 0.001 + work * 1e-7 * (1 if block.inputs % 16 == 0 else 2)


class Clockwork:
    """Networks take ``factor`` times the sum of their blocks, and ``overhead`` more, times whatever ``fault`` says.

    Args:
        network: The network that is timed, by the name that work gives it.
        dies_after: Measurements after which it is not heard of any more.
        fault: What a network's time is multiplied by, from its number: a device that tables do not describe.
        settles_at: Measurements of the same work after which one settles.
    """

    def __init__(
        self,
        name: str,
        network: TracedNetwork,
        *,
        factor: float = 0.8,
        overhead: float = 0.01,
        dies_after: int | None = None,
        fault: Sequence[float] = (1.0,),
        settles_at: int = 1,
    ) -> None:
        self.name, self.network = name, network
        self.factor, self.overhead, self.fault = factor, overhead, fault
        self.dies_after, self.settles_at = dies_after, settles_at
        self.asked: list[Work] = []

    def describe(self) -> DeviceDescription:
        return DeviceDescription({"processor": f"clockwork {self.name}"}, {"torch": "1"})

    def time(self, works: Sequence[Work], conditions: Conditions, done: OnTiming) -> None:
        for work in works:
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise DeviceError(f"Device {self.name!r} is gone.")
            self.asked.append(work)
            reference = block_ms(REFERENCE) if isinstance(work, Block) else self.network_ms(work.full)
            ms = block_ms(work) if isinstance(work, Block) else self.network_ms(work)
            settled = self.settles_at == 1 or self.asked.count(work) >= self.settles_at
            done(work, Timing(ms, 0.01 * ms, ms / reference, 0.01, reference, 20, settled))

    def network_ms(self, work: NetworkWork) -> float:
        architecture = self.network.architecture
        space = ChannelSpace.of(architecture)
        widths = dict(zip(space.names, space.full.widths, strict=True)) | dict(work.widths)
        row = space.array([space.candidate(widths)])
        total = 0.0
        for alike in layers_alike(architecture, space):
            inputs, outputs = alike.widths_of(row)
            total += sum(block_ms(alike.signature.at(int(i), int(o))) for i, o in zip(inputs[0], outputs[0], strict=True))
        wrong = self.fault[sum(widths.values()) % len(self.fault)]
        return (self.overhead + self.factor * total) * (wrong if work.widths else 1.0)
