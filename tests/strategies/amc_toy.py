"""What AMC is tested on: MobileNetV1's costs, and scores that each width lowers by itself."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.problem import Budget, Objective, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies.amc import Amc
from automl_prune.strategies.base import Proposal
from automl_prune.testing.strategy import told
from automl_prune.trial import Outcome, TrialState

V1 = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def mobilenet_v1(widths: tuple[int, ...] = V1) -> nn.Module:
    """MobileNetV1 at 224 x 224 with these output widths."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for i, (into, out) in enumerate(pairwise(widths)):
        stride = 2 if i in (1, 3, 5, 11) else 1
        layers += [nn.Conv2d(into, into, 3, stride, 1, groups=into, bias=False), nn.BatchNorm2d(into), nn.ReLU()]
        layers += [nn.Conv2d(into, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000))


@cache
def v1_problem(target: float | None = 0.5, *, round_to: int = 8) -> Problem:
    architecture = trace(mobilenet_v1(), torch.zeros(1, 3, 224, 224))
    space = ChannelSpace.of(architecture, round_to=round_to)
    cost = CostModel(architecture, space.names)
    full = cost.one()["macs"]
    return Problem(space, cost, (Objective(),), () if target is None else (Budget("macs", max=target * full),))


def ratio(problem: Problem, candidate: Candidate) -> float:
    return problem.costs(candidate)["macs"] / problem.costs(problem.space.full)["macs"]


def amc(problem: Problem, *, preset: str = "published", seed: int = 0, trials: int | None = None, **options: Any) -> Amc:
    made = Amc.create(problem, seed=seed, preset=preset, options=options, trials=trials)
    assert isinstance(made, Amc)
    return made


def drive(agent: Amc, score: Callable[[Candidate], float | None], most: int) -> list[tuple[Proposal, float | None]]:
    """Ask and tell in turn; a score of None is a failure."""
    came: list[tuple[Proposal, float | None]] = []
    while len(came) < most and not agent.finished and (proposal := agent.ask()) is not None:
        value = score(proposal.candidate)
        outcome = Outcome.failed("lost") if value is None else Outcome(TrialState.COMPLETE, {"top1": value})
        agent.tell(told(proposal, len(came), outcome))
        came.append((proposal, value))
    return came


def calibrated(problem: Problem, seed: int = 16) -> Callable[[Candidate], float]:
    """1 - Σ s (1 - r)^p with random sensitivities ``s`` that add up to 1, and random powers.

    The default is the first seed at which random episodes on MobileNetV1 at half its MACs score as those of the
    specification's own toy do, 0.68 on average with a deviation of 0.10 (here 0.689 and 0.098).
    """
    rng = np.random.default_rng([seed, 99])
    share, power = rng.dirichlet(np.ones(len(problem.space))), rng.uniform(1, 3, len(problem.space))
    full = np.array(problem.space.full.widths)
    return lambda c: float(1 - (share * (1 - np.array(c.widths) / full) ** power).sum())
