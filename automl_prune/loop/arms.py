"""The parts of a search, in order: base network, the strategy's own trials, controls, leaders, recovery of the best, report.

Each part is an *arm*: a strategy that asks, how many asks it may make, and whether earlier trials must all be back before
it starts. The controller walks through them; nothing else knows their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from automl_prune.evaluation.setup import FULL_NETWORK, IMPORTANCE, PREPARES
from automl_prune.loop.confirmation import best_of, confirmed, first
from automl_prune.loop.measured import MEASURED_ARMS, Latencies
from automl_prune.loop.ranked import ranked_widths
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.problem import Loss, Problem, best_trials
from automl_prune.space import Candidate
from automl_prune.strategies.base import Proposal, Strategy, StrategyOptions
from automl_prune.strategies.random import RandomOptions, RandomSearch
from automl_prune.strategies.uniform import UniformWidth
from automl_prune.trial import Trial, TrialState

PREPARATION, FINAL, REPORT = "preparation", "final", "report"
CONFIRM = "confirm"
"""Followed by the number of the round, from 1."""
CONTROLS = ("uniform", "random", "global")
"""Arms that the search is compared with; each is recovered and reported as its best is."""

History = Sequence[Trial]
"""Trials told so far, in order of number."""

_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Arm:
    """A part of a search.

    Attributes:
        name: What its trials carry as ``arm``.
        start: Makes the arm's strategy from the trials told before it starts.
        limit: Maps how often each arm asked so far to how often this one may.
        waits: Whether all trials of earlier arms must be told before it starts.
        required: Whether a failed trial of it fails the search.
    """

    name: str
    start: Callable[[History], Strategy]
    limit: Callable[[Mapping[str, int]], int]
    waits: bool = False
    required: bool = False


class FixedCandidates(Strategy):
    """Asks for given candidates, once each; not registered, because users order searches and not lists."""

    name = "fixed"
    help = "A fixed list."

    def __init__(self, problem: Problem, proposals: Sequence[Proposal]) -> None:
        super().__init__(problem, StrategyOptions())
        self.proposals = tuple(proposals)

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The next of the list."""
        return self.proposals[self.asked] if self.asked < len(self.proposals) else None

    @property
    def finished(self) -> bool:
        """Whether the list is through."""
        return self.asked >= len(self.proposals)


def plan_arms(
    problem: Problem,
    make_strategy: Callable[[], Strategy],
    *,
    max_trials: int,
    controls: Sequence[str],
    top_k: int,
    train_base: bool,
    seed: int,
    prepare: Sequence[str] = (),
    rounds: Sequence[int] = (),
    latencies: Latencies | None = None,
) -> list[Arm]:
    """The arms of a search.

    Args:
        problem: What is searched.
        make_strategy: A fresh copy of the user's strategy.
        max_trials: Evaluations the strategy may spend.
        controls: Some of ``CONTROLS``.
        top_k: How many of the best candidates are recovered.
        train_base: Whether the full network must be trained first.
        seed: The search's seed; the random control derives its own.
        prepare: What else the evaluator makes before anything is scored, by its names.
        rounds: Select images of each round in which the leaders are confirmed.
        latencies: What measures leaders before they go on.
    """
    full, ordered = problem.space.full, make_strategy()
    ranks = {IMPORTANCE: True} if "global" in controls or ordered.wants_starts else {}
    arms = [_fixed(problem, BASE, lambda _: [Proposal(full, ranks)], waits=True, required=True)]
    wanted = [FULL_NETWORK, *prepare] if train_base else prepare
    preparations = [Proposal(full, {PREPARES: what}) for what in wanted]
    if preparations:
        arms.insert(0, _fixed(problem, PREPARATION, lambda _: preparations, required=True))
    arms.append(Arm(SEARCH, lambda h: started(problem, make_strategy(), h), lambda _: max_trials, waits=True))
    if "uniform" in controls:
        arms.append(Arm("uniform", lambda _: UniformWidth(problem, StrategyOptions()), lambda _: 1))
    if "global" in controls:
        arms.append(_fixed(problem, "global", lambda h: [Proposal(globally_ranked(problem, h))]))
    if "random" in controls:
        control = RandomSearch(problem, RandomOptions(), seed=seed + 1)
        arms.append(Arm("random", lambda _: control, _as_many_as_searched, waits=True))
    for number, images in enumerate(rounds, 1):
        keep = top_k << (len(rounds) - number)
        confirm = partial(leaders, problem, number, keep=keep, images=images, latencies=latencies, loss=ordered.ranking_loss)
        arms.append(_fixed(problem, f"{CONFIRM}-{number}", confirm, waits=True))
    finish = partial(finalists, problem, top_k=top_k, rounds=len(rounds), latencies=latencies, loss=ordered.ranking_loss)
    arms.append(_fixed(problem, FINAL, finish, waits=True))
    arms.append(_fixed(problem, REPORT, partial(reported, problem, loss=ordered.ranking_loss), waits=True, required=True))
    return arms


def started(problem: Problem, strategy: Strategy, history: History) -> Strategy:
    """The strategy, told what others would choose if it wants to know."""
    if strategy.wants_starts:
        strategy.starts = {"global": globally_ranked(problem, history)}
    return strategy


def leaders(
    problem: Problem,
    number: int,
    history: History,
    *,
    keep: int,
    images: int,
    latencies: Latencies | None = None,
    loss: Loss | None = None,
) -> list[Proposal]:
    """What round ``number`` of the confirmation scores: the best ``keep`` of the search and of the random control."""
    confirm = partial(confirmed, problem, keep=keep, images=images, loss=loss)
    return [
        proposal
        for arm in (SEARCH, *CONTROLS)
        for proposal in confirm(scored(history, arm, number - 1), arm, latencies=_judge_of(arm, latencies))
    ]


def scored(history: History, arm: str, number: int) -> list[Trial]:
    """An arm's trials, or those of its leaders in a round of the confirmation."""
    if number == 0:
        return [t for t in history if t.arm == arm]
    return [t for t in history if t.arm == f"{CONFIRM}-{number}" and t.origin["arm"] == arm]


def finalists(
    problem: Problem,
    history: History,
    top_k: int,
    *,
    rounds: int = 0,
    latencies: Latencies | None = None,
    loss: Loss | None = None,
) -> list[Proposal]:
    """The best ``top_k`` of the search and of the random control, and the other controls, to be recovered.

    A candidate is made again as it was made for the search, from the same parent.

    Args:
        problem: What is searched.
        history: Trials told so far.
        top_k: How many of each.
        rounds: How often the leaders were confirmed; the last scores count.
        latencies: What measures whether they are fast enough.
        loss: What ranks them; None: the problem's first loss.
    """
    proposals = []
    for arm in (SEARCH, *CONTROLS):
        best = best_of(problem, scored(history, arm, rounds), top_k, _judge_of(arm, latencies), afresh=True, loss=loss)
        best = [t for t in best if latencies is None or latencies.is_measurable(t.candidate)]
        proposals += [Proposal(t.candidate, {"of": first(t), "arm": arm}, parent=t.parent) for t in best]
    return proposals


def _judge_of(arm: str, latencies: Latencies | None) -> Latencies | None:
    """What decides between an arm's leaders; controls of a single candidate go on as they were predicted."""
    return latencies if arm in MEASURED_ARMS else None


def globally_ranked(problem: Problem, history: History) -> Candidate:
    """The control ``global``, by the importance that was worked out when the full network was scored."""
    details = next(t.outcome.details for t in history if t.arm == BASE and t.outcome)
    return ranked_widths(problem, details[IMPORTANCE])


def reported(problem: Problem, history: History, *, loss: Loss | None = None) -> list[Proposal]:
    """The full network, the best recovered candidate and the recovered controls: what is scored on the report split."""
    proposals = [Proposal(problem.space.full, {"arm": BASE})]
    for arm in (SEARCH, *CONTROLS):
        recovered = [t for t in history if t.arm == FINAL and t.origin.get("arm") == arm and t.state is TrialState.COMPLETE]
        for i in best_trials(problem, [(t.candidate, t.metrics) for t in recovered], 1, loss=loss):
            origin = {"arm": arm, "of": recovered[i].origin["of"], "final": recovered[i].number}
            proposals.append(Proposal(recovered[i].candidate, origin, parent=recovered[i].number))
    return proposals


def _as_many_as_searched(asked: Mapping[str, int]) -> int:
    return asked[SEARCH]


def _fixed(problem: Problem, name: str, proposals: Callable[[History], list[Proposal]], **options: Any) -> Arm:
    return Arm(name, lambda h: FixedCandidates(problem, proposals(h)), lambda _: _NO_LIMIT, **options)
