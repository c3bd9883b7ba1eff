"""What strategies think: processor time of an ask and a tell, at 1,000 trials.

    python tests/benchmarks/thinking.py [--trials 1000] [--only SUBJECT …]

*whole* is the mean over the trials asked for, *last* that over the last tenth of them. Both searches have half of the MACs:
of the inner widths of ResNet-56 (27 groups), and of a chain of 50 groups of 64 widths. Scores are those of the tests' toy
with noise of 0.5 %, so no time is spent on evaluations. The shares are those of one evaluation without training on one core,
on 5,000 images of CIFAR-10: about 10 s for ResNet-56, and 2.5 s for ResNet-20, which has 9 such groups and so is thought
about in a fraction of the time. ``optuna gp`` is told the first nine tenths of the trials instead of asking for them, as
these alone would take minutes; its *whole* is that of the last tenth. ``amc published``, which has 400 episodes of its own
and ends early where its noise has gone, is given as many episodes as the others have trials.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.networks import NETWORKS
from automl_prune.problem import Budget, Problem
from automl_prune.space import Candidate, ChannelSpace
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.testing.strategy import told, toy_problem, toy_score
from automl_prune.trial import Outcome, Trial, TrialState
from tests.benchmarks.common import header

EVALUATION = {"ResNet-56": 10.0, "ResNet-20": 2.5}
"""CPU seconds of one evaluation without training."""
LAST = 10
"""Part of the trials that the second column is of."""
NOISE = 0.005


@dataclass(frozen=True)
class Subject:
    """A strategy with a preset and options; ``given`` when it is told the first trials instead of asking for them."""

    name: str
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    given: bool = False

    @property
    def title(self) -> str:
        """How the table calls it."""
        return " ".join([self.name, *filter(None, [self.preset]), *map(str, filter(None, self.options.values()))])


SUBJECTS = [
    *(Subject("optuna", None, {"sampler": sampler}) for sampler in ("random", "qmc", "nsgaii", "cmaes", "tpe")),
    Subject("abc", "published"),
    Subject("abc", "corrected"),
    Subject("evolution", "published"),
    Subject("evolution", "modern"),
    Subject("nsga2", "modern"),
    Subject("metapruning", "modern"),
    Subject("netadapt", "published"),
    Subject("netadapt", "modern"),
    Subject("sensitivity", "published"),
    Subject("sensitivity", "modern"),
    Subject("auto"),
    Subject("amc", "modern"),
    Subject("amc", "published", {"episodes": 1000, "patience": None}),
    Subject("optuna", None, {"sampler": "gp"}, given=True),
]


def resnet56() -> Problem:
    """The inner widths of ResNet-56's blocks at half of its MACs."""
    network = NETWORKS.get("resnet56")
    architecture = trace(network.build(10), torch.zeros(1, *network.input_shape))
    space = ChannelSpace.of(architecture, frozen=network.preset("published").frozen)
    cost = CostModel(architecture, space.names)
    return Problem(space, cost, budgets=(Budget("macs", max=0.5 * cost.one()["macs"]),))


def score(problem: Problem, candidate: Candidate, number: int) -> Outcome:
    """A noisy score, the same for the same number."""
    noise = NOISE * np.random.default_rng(number).standard_normal()
    return Outcome(TrialState.COMPLETE, {"top1": toy_score(problem, candidate) + noise, "loss": 1.0})


def tell_first(strategy: Strategy, trials: int) -> None:
    """Tell random networks that it did not ask for."""
    rng = np.random.default_rng(0)
    for number in range(trials):
        candidate = strategy.problem.sample(rng)[1]
        strategy.tell(Trial(number, candidate).with_outcome(score(strategy.problem, candidate, number)))


def times(strategy: Strategy, trials: int) -> Iterator[float]:
    """Processor seconds of each ask with its tell."""
    for number in range(trials):
        if strategy.finished:
            return
        began = time.process_time()
        proposal = strategy.ask()
        asked = time.process_time()
        if proposal is None:
            return
        trial = told(proposal, number, score(strategy.problem, proposal.candidate, number))
        ready = time.process_time()
        strategy.tell(trial)
        yield asked - began + time.process_time() - ready


def row(subject: Subject, problem: Problem, trials: int) -> str:
    """A line of the table."""
    make = STRATEGIES.get(subject.name).create
    strategy = make(problem, preset=subject.preset, options=subject.options, trials=trials)
    given = trials - trials // LAST if subject.given else 0
    tell_first(strategy, given)
    taken = 1e3 * np.array(list(times(strategy, trials - given)))
    whole, last = taken.mean(), taken[-max(1, len(taken) // (1 if given else LAST)) :].mean()
    shares = " | ".join(f"{whole / 10 / seconds:.2f} %" for seconds in EVALUATION.values())
    return f"| {subject.title} | {given + len(taken)} | {whole:.1f} | {last:.1f} | {shares} |"


def main() -> None:
    """Print a table for each space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=[], metavar="SUBJECT", help="a strategy, or a line of the table")
    arguments = parser.parse_args()
    header("a strategy's own time per trial, ms of one core")
    for problem in (resnet56(), toy_problem(groups=50, width=64)):
        print(f"\n{len(problem.space)} groups\n")
        print("| strategy | trials | whole, ms | last, ms | " + " | ".join(f"of {name}" for name in EVALUATION) + " |")
        print("|---|--:|--:|--:|--:|--:|")
        for subject in SUBJECTS:
            if not arguments.only or {subject.name, subject.title} & {*arguments.only}:
                print(row(subject, problem, arguments.trials), flush=True)


if __name__ == "__main__":
    main()
