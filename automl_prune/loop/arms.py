"""The parts of a search, in order: base network, the strategy's own trials, controls, leaders, recovery of the best, report.

Each part is an *arm*: a strategy that asks, how many asks it may make, and whether earlier trials must all be back before
it starts. The controller walks through them; nothing else knows their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from automl_prune.evaluation.setup import FULL_NETWORK, IMPORTANCE, MEASURED, PREPARES
from automl_prune.loop.confirmation import confirmed, first, ranked
from automl_prune.loop.measured import MEASURED_ARMS, Latencies, first_within
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
COMPARED = (SEARCH, *CONTROLS)

History = Sequence[Trial]
"""Trials told so far, in order of number; where an arm starts, also what a driver that died had asked of it."""
TIMED = "timed"
"""Key of a finalist's origin: the timings by which it was found to be within the budgets."""

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
    also = {IMPORTANCE: "global" in controls or ordered.wants_starts, MEASURED: ordered.wants_measured}
    asked = {what: True for what, wanted in also.items() if wanted}
    arms = [_fixed(problem, BASE, lambda _: [Proposal(full, asked)], waits=True, required=True)]
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
    judged: dict[str, Any] = {"latencies": latencies, "loss": ordered.ranking_loss}
    finish = partial(finalists, problem, top_k=top_k, rounds=len(rounds), **judged)
    arms.append(_fixed(problem, FINAL, finish, waits=True))
    arms.append(_fixed(problem, REPORT, partial(reported, problem, **judged), waits=True, required=True))
    return arms


def started(problem: Problem, strategy: Strategy, history: History) -> Strategy:
    """The strategy, told what others would choose and what earlier searches measured, if it wants to know."""
    if strategy.wants_starts:
        strategy.starts = {"global": globally_ranked(problem, history)}
    if strategy.wants_measured:
        for cut in measured_before(history):
            widths = problem.space.widths(problem.space.full)
            changed = {} if cut["group"] is None else {cut["group"]: cut["width"]}
            strategy.recall(Candidate(tuple((widths | changed).values())), cut["scores"])
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

    def choose(arm: str, asked: History) -> list[Proposal]:
        left, before = keep - len(asked), [t.candidate for t in asked]
        trials, confirm = scored(history, arm, number - 1), partial(confirmed, _as_judged(problem, arm), loss=loss)
        return confirm(trials, arm, keep=left, images=images, latencies=_judge_of(arm, latencies), after=before)

    return _going_on([t for t in history if t.arm == f"{CONFIRM}-{number}"], choose)


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

    A candidate is made again as it was made for the search, from the same parent. Behind those of the last round come those
    of the rounds before, for where devices find the last ones too slow.

    Args:
        problem: What is searched.
        history: Trials told so far.
        top_k: How many of each.
        rounds: How often the leaders were confirmed; the last scores of each count.
        latencies: What measures whether they are fast enough.
        loss: What ranks them; None: the problem's first loss.
    """
    asked = [t for t in history if t.arm == FINAL]
    for trial in asked:
        if latencies is not None:
            latencies.recall(trial.candidate, trial.origin.get(TIMED, {}))

    def choose(arm: str, own: History) -> list[Proposal]:
        left, before = top_k - len(own), [t.candidate for t in own]
        judged, by_candidate = _as_judged(problem, arm), dict[Candidate, Trial]()
        for number in range(rounds, -1, -1):
            for trial in ranked(judged, scored(history, arm, number), loss):
                by_candidate.setdefault(trial.candidate, trial)
        best = first_within(_judge_of(arm, latencies), [*by_candidate.values()], left, afresh=True, after=before)
        return [_finalist(t, arm, latencies) for t in best if latencies is None or latencies.is_measurable(t.candidate)]

    return _going_on(asked, choose)


def _finalist(trial: Trial, arm: str, latencies: Latencies | None) -> Proposal:
    timed = latencies.record(trial.candidate) if latencies else {}
    origin = {"of": first(trial), "arm": arm, **({TIMED: timed} if timed else {})}
    return Proposal(trial.candidate, origin, parent=trial.parent)


def _going_on(asked: History, choose: Callable[[str, History], list[Proposal]]) -> list[Proposal]:
    """A list of leaders, arm by arm: what was asked of it before its driver died, as it was, and what comes after that.

    What is measured again may come out otherwise; a list that began anew would leave leaders out, or ask for some twice.

    Args:
        asked: Trials of the list, in their order.
        choose: The leaders of an arm that follow those asked already.
    """
    proposals: list[Proposal] = []
    for place, arm in enumerate(COMPARED):
        own = [t for t in asked if t.origin["arm"] == arm]
        proposals += [Proposal(t.candidate, t.origin, parent=t.parent) for t in own]
        if not any(t.origin["arm"] in COMPARED[place + 1 :] for t in asked):
            proposals += choose(arm, own)
    return proposals


def _judge_of(arm: str, latencies: Latencies | None) -> Latencies | None:
    """What decides between an arm's leaders; controls of a single candidate go on as they were predicted."""
    return latencies if arm in MEASURED_ARMS else None


def _as_judged(problem: Problem, arm: str) -> Problem:
    """The problem with the budgets that an arm's trials must meet; the same controls need not by what was measured."""
    if arm in MEASURED_ARMS:
        return problem
    return replace(problem, budgets=tuple(replace(b, measured=None) for b in problem.budgets))


def globally_ranked(problem: Problem, history: History) -> Candidate:
    """The control ``global``, by the importance that was worked out when the full network was scored."""
    return ranked_widths(problem, _base_details(history)[IMPORTANCE])


def measured_before(history: History) -> Sequence[Mapping[str, Any]]:
    """What earlier searches measured, as it was found when the full network was scored, whatever came to be known since."""
    found: Sequence[Mapping[str, Any]] = _base_details(history).get(MEASURED, ())
    return found


def _base_details(history: History) -> Mapping[str, Any]:
    return next(t.outcome.details for t in history if t.arm == BASE and t.outcome)


def reported(
    problem: Problem, history: History, *, latencies: Latencies | None = None, loss: Loss | None = None
) -> list[Proposal]:
    """The full network, the best recovered candidate and the recovered controls: what is scored on the report split.

    None that was measured to be outside the budgets.
    """
    proposals = [Proposal(problem.space.full, {"arm": BASE})]
    for arm in COMPARED:
        recovered = [t for t in history if t.arm == FINAL and t.origin.get("arm") == arm and t.state is TrialState.COMPLETE]
        if judge := _judge_of(arm, latencies):
            recovered = [t for t in recovered if judge.within(t.candidate)]
        for i in best_trials(_as_judged(problem, arm), [(t.candidate, t.metrics) for t in recovered], 1, loss=loss):
            origin = {"arm": arm, "of": recovered[i].origin["of"], "final": recovered[i].number}
            proposals.append(Proposal(recovered[i].candidate, origin, parent=recovered[i].number))
    return proposals


def _as_many_as_searched(asked: Mapping[str, int]) -> int:
    return asked[SEARCH]


def _fixed(problem: Problem, name: str, proposals: Callable[[History], list[Proposal]], **options: Any) -> Arm:
    return Arm(name, lambda h: FixedCandidates(problem, proposals(h)), lambda _: _NO_LIMIT, **options)
