"""An agent that times by a formula: ``python -m tests.services.formula_agent SERVER NAME``."""

import sys
from collections.abc import Callable

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import Work
from services.agent.agent import Agent
from services.agent.link import Link
from tests.latency.clockwork import Clockwork


def formula(name: str) -> Callable[[Conditions, Work], Timing]:
    """What a device of this name takes for any work."""
    clockwork = Clockwork(name, TracedNetwork.registered("digits_resnet", 10), factor=0.8 if name == "pi4" else 2.0)

    def time_it(conditions: Conditions, work: Work) -> Timing:
        found: list[Timing] = []
        clockwork.time([work], conditions, lambda _, timing: found.append(timing))
        return found[0]

    return time_it


if __name__ == "__main__":
    with Link(sys.argv[1], None) as link:
        Agent(link, sys.argv[2], formula(sys.argv[2])).run()
