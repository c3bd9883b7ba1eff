"""NetAdapt (Yang et al. 2018, arXiv 1804.03230): shrink one group per iteration, the one that costs the least accuracy.

An iteration has a target for the cost of the whole network. For every group the widest width is found that meets the target
when that group alone is cut; these candidates start from the weights of the last winner, are trained briefly, and the one
with the highest accuracy wins. Its network is the next one to be cut, until the budgets are met. All winners are a family of
networks, from the largest to the smallest, and all of them are kept (:attr:`Strategy.family`). The recipe has
``inherit: parent``, so that weights are handed on.

*Targets* (algorithm 1 of the paper): the cost reached less a reduction that starts at ``initial_reduction`` of the full
network's cost and is multiplied by ``decay`` after each iteration; one target per budget that is not met yet, in whatever
metric it bounds. As in the released code a candidate lies strictly below it. Where no group alone can meet a target the
reduction is halved until one can.

*Winner*: the paper takes the highest accuracy; the released code (``_find_best_model``) the least drop per cost saved, here
``rule: ratio``. That rule prefers the smallest saving when accuracy rises; here candidates without a drop are compared by
their saving alone.

``published`` tries all groups in each iteration and shrinks by 3 % of the full cost at first, times 0.98 each time. The
paper names its steps in milliseconds; the released code's 2.5 % times 0.96 never get below 37.5 %, and are refused where the
budget lies lower. Each candidate is trained for 10,000 steps, where the paper finds accuracy to be kept, at the released
code's rate, momentum and decay; but as everything here is trained: with Nesterov's momentum, on cross-entropy (the code's is
binary, on one-hot labels), and without decay of norms and biases. Not in the preset, but to be ordered: widths in multiples
of 8 (``search_space.round_to``), batches of 128 as the code has (``dataset.batch_size``, else 256), and the training of the
chosen network to convergence, 150 epochs in the code (``finish.epochs``, else 1).

``modern`` shrinks by 5 % each time, ends on the budget instead of below it, and where the trials do not suffice for all
groups it draws as many at random as they do suffice for, anew in each iteration.

*In comparisons*: as weights are handed on, a winner has had the training of every iteration before it, while a candidate of
another strategy or a control has that of the recipe once.

A candidate that fails is asked for once more, then its group sits the iteration out. Should trials or cuts run out before
the budgets are met, the last candidate has all widths of the last winner scaled by one factor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from automl_prune.errors import FieldError, SpecError
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies._shrinking import EXACT, ScheduleOptions, Shrinker, Widths
from automl_prune.strategies.base import MEASURES, STRATEGIES, Proposal, Strategy
from automl_prune.trial import Trial, TrialState


class NetAdaptOptions(ScheduleOptions):
    """Options of NetAdapt."""

    rule: Literal["highest_accuracy", "ratio"] = Field(
        "highest_accuracy", description="Which candidate wins; ratio: the least drop per cost saved, as the released code."
    )
    groups: Literal["all", "affordable"] = Field(
        "all", description="Groups tried per iteration; affordable: as many, drawn at random, as the trials allow for."
    )


@dataclass(frozen=True)
class Entry:
    """A candidate of an iteration: its group (None: not a cut of one), and how far it is; ``loss`` once it is scored."""

    group: int | None
    widths: Widths
    attempt: int = 1
    state: Literal["waiting", "open", "scored", "out"] = "waiting"
    number: int = -1
    loss: float = 0.0


@STRATEGIES.register("netadapt")
class NetAdapt(Strategy):
    """Greedy shrinking with a barrier per iteration; see the module for the presets."""

    name = "netadapt"
    help = "Shrinks one group per iteration, the one that costs the least accuracy, and hands the weights on."
    paper = "Yang et al. 2018, arXiv 1804.03230"
    Options = NetAdaptOptions
    presets = {
        "modern": {"initial_reduction": 0.05, "decay": 1.0, "groups": "affordable", "clamp": True},
        "published": {},
    }
    default_preset = "modern"
    default_recipe = {
        "modern": {
            "inherit": "parent", "criterion": "l2", "recalibrate_batches": 10, "fine_tune": {"steps": 20, "lr": 0.01},
        },
        "published": {
            "inherit": "parent", "criterion": "l2", "recalibrate_batches": 0,
            "fine_tune": {"steps": 10_000, "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "constant"},
        },
    }  # fmt: skip
    options: NetAdaptOptions

    def __init__(self, problem: Problem, options: NetAdaptOptions, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        self.shrinker = Shrinker(problem, options)
        self.iteration, self.widths = 0, problem.space.full.widths
        self.parent: int | None = None
        self.loss: float | None = None
        self.winners: tuple[int, ...] = ()
        self.entries: tuple[Entry, ...] = ()
        self.targets: dict[str, float] = {}
        self.sitting_out: frozenset[int] = frozenset()
        self.over = False
        self._planned: int | None = None

    # The conversation ------------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """The next candidate of the iteration; None while any is out."""
        if not self.entries and not self.over:
            self._begin(rng)
        place = next((i for i, e in enumerate(self.entries) if e.state == "waiting"), None)
        if place is None:
            return None
        entry = self._set(place, state="open")
        origin: dict[str, Any] = {"iteration": self.iteration, "group": self._name(entry), "attempt": entry.attempt}
        if entry.group is not None:
            origin |= {"width": entry.widths[entry.group], "targets": dict(self.targets)}
        if not self.problem.is_feasible(Candidate(entry.widths)):
            origin[MEASURES] = {"iteration": self.iteration}
        return Proposal(Candidate(entry.widths), origin, parent=self.parent)

    def tell(self, trial: Trial) -> None:
        """Enter the score; when the last one of the iteration is in, the winner is cut next."""
        place = next((i for i, e in enumerate(self.entries) if e.state == "open" and self._is_of(trial, e)), None)
        if place is None:
            return
        if trial.state is TrialState.COMPLETE and self.problem.objectives[0].metric in trial.metrics:
            self._set(place, state="scored", number=trial.number, loss=self.problem.losses(trial.metrics)[0])
        elif self._may_try_again(trial, self.entries[place]):
            self._set(place, state="waiting", attempt=self.entries[place].attempt + 1)
        else:
            self._set(place, state="out")
        if all(e.state in ("scored", "out") for e in self.entries):
            self._decide()

    @property
    def finished(self) -> bool:
        """Whether the budgets are met, or nothing is left to try."""
        return self.over

    @property
    def family(self) -> tuple[int, ...]:
        """The winners, from the largest network to the smallest."""
        return self.winners

    @property
    def heirs(self) -> frozenset[int]:
        """The scored candidates of the iteration that is not decided."""
        return frozenset(e.number for e in self.entries if e.state == "scored")

    # An iteration ----------------------------------------------------------------------------------------------------

    def _begin(self, rng: np.random.Generator) -> None:
        """Work out the candidates of the next iteration.

        Number 0 is the full network alone: where it meets the budgets already, and for its score where drops are compared.
        """
        if self.iteration == 0 and (self.shrinker.is_met(self.widths) or self.options.rule == "ratio"):
            self.entries = (Entry(None, self.widths),)
            return
        self.iteration = max(1, self.iteration)
        cuts, self.targets = self.shrinker.cuts(self.widths, self.iteration)
        entries = [Entry(group, widths) for group, widths in cuts if group not in self.sitting_out]
        most = self._affordable(entries)
        if most < len(entries):
            entries = [entries[i] for i in sorted(rng.choice(len(entries), size=most, replace=False))]
        self.entries = tuple(entries) or self._closing()
        self.over = not self.entries

    def _affordable(self, entries: Sequence[Entry]) -> int:
        """How many of an iteration's candidates may be tried, so that one trial is left for what meets the budgets."""
        if self.trials is None:
            return len(entries)
        most = self.trials - self.asked - (not all(self.shrinker.is_met(e.widths) for e in entries))
        if self.options.groups == "affordable":
            self._planned = self._planned or len(list(self.shrinker.sizes()))
            most = min(most, max(1, most // max(1, self._planned - self.iteration + 1)))
        return max(0, min(most, len(entries)))

    def _closing(self) -> tuple[Entry, ...]:
        """The last winner with all widths scaled by one factor into the budgets, if it can be."""
        scaled = self.problem.fit(Candidate(self.widths))
        usable = scaled.widths != self.widths and self.problem.is_feasible(scaled)
        return (Entry(None, scaled.widths),) if usable else ()

    def _decide(self) -> None:
        """Go on from the winner; where nothing was scored, with the groups that were not tried yet."""
        scored = [e for e in self.entries if e.state == "scored"]
        closing = self.iteration > 0 and self.entries[0].group is None
        if scored:
            winner = self.winner(scored)
            self.loss = winner.loss
            if self.iteration or self.shrinker.is_met(winner.widths):
                self.widths, self.parent, self.winners = winner.widths, winner.number, (*self.winners, winner.number)
        if scored or not self.iteration:
            self.iteration, self.sitting_out = self.iteration + 1, frozenset()
        else:
            self.sitting_out |= {e.group for e in self.entries if e.group is not None}
        self.over = self.shrinker.is_met(self.widths) or (closing and not scored)
        self.entries = ()

    def winner(self, scored: Sequence[Entry]) -> Entry:
        """The best of an iteration's scored candidates by the rule; ties: the larger saving, then the earlier group."""
        savings = dict(zip(scored, self.shrinker.savings(self.widths, [e.widths for e in scored]), strict=True))
        if self.options.rule == "highest_accuracy":
            return min(scored, key=lambda e: (e.loss, -savings[e]))
        start = self.loss if self.loss is not None else min(e.loss for e in scored)
        if free := [e for e in scored if e.loss <= start]:
            return min(free, key=lambda e: (-savings[e], e.loss))
        return min(scored, key=lambda e: ((e.loss - start) / max(savings[e], EXACT), -savings[e]))

    def _may_try_again(self, trial: Trial, entry: Entry) -> bool:
        """Whether a trial without a score is asked for once more; the last trial is kept for what meets the budgets."""
        if entry.attempt > 1 or trial.state not in (TrialState.FAILED, TrialState.CANCELLED):
            return False
        reserved = sum(e.state == "waiting" for e in self.entries) + (not self.shrinker.is_met(entry.widths))
        return self.trials is None or self.asked + reserved < self.trials

    def check_trials(self, trials: int) -> None:
        """Raise SpecError where that many trials do not suffice to meet the budgets.

        Counted on the schedule run through without scores, the smallest step of each iteration taken, as far as it matters.
        """
        sampled, most = self.options.groups == "affordable", 1
        needed = int(self.options.rule == "ratio")
        for size in self.shrinker.sizes():
            needed, most = needed + (1 if sampled else size), max(most, size)
            if needed > trials:
                break
        else:
            return
        each, way_out = ("one or more", "") if sampled else (f"{most:,}", ", let groups be 'affordable',")
        said = (
            f"netadapt needs more than {trials:,} trials: about {self.shrinker.iterations:,} iterations of {each} each. "
            f"Raise it{way_out} or raise the strategy's initial_reduction."
        )
        raise SpecError([FieldError("/trials/max", said, "too_few_trials")])

    def way_left(self) -> str:
        """How far the budgets still are, and what would reach them."""
        sizes = list(self.shrinker.sizes(self.widths, max(1, self.iteration)))
        most = f" to {sum(sizes):,}" if sum(sizes) > len(sizes) else ""
        count = f"{len(sizes):,}{most}" if self.options.groups == "affordable" else f"{sum(sizes):,}"
        return (
            f"netadapt was in iteration {self.iteration} of about {self.iteration + len(sizes) - 1} and needs about {count} "
            f"further trials; raise the strategy's initial_reduction (it is {self.options.initial_reduction:g}) for fewer."
        )

    # Bookkeeping -----------------------------------------------------------------------------------------------------

    def _set(self, place: int, **changes: Any) -> Entry:
        entry = replace(self.entries[place], **changes)
        self.entries = (*self.entries[:place], entry, *self.entries[place + 1 :])
        return entry

    def _name(self, entry: Entry) -> str | None:
        return None if entry.group is None else self.problem.space.names[entry.group]

    def _is_of(self, trial: Trial, entry: Entry) -> bool:
        asked = (trial.origin.get("iteration"), trial.origin.get("group"), trial.origin.get("attempt"))
        return asked == (self.iteration, self._name(entry), entry.attempt) and trial.candidate.widths == entry.widths

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The last winner, the family and the iteration, as JSON data."""
        return super().state_dict() | {
            "iteration": self.iteration,
            "widths": list(self.widths),
            "parent": self.parent,
            "loss": self.loss,
            "winners": list(self.winners),
            "targets": dict(self.targets),
            "entries": [asdict(e) | {"widths": list(e.widths)} for e in self.entries],
            "sitting_out": sorted(self.sitting_out),
            "over": self.over,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.iteration, self.widths = int(state["iteration"]), tuple(state["widths"])
        self.parent, self.loss, self.over = state["parent"], state["loss"], bool(state["over"])
        self.winners, self.targets = tuple(state["winners"]), dict(state["targets"])
        self.sitting_out = frozenset(state["sitting_out"])
        self.entries = tuple(Entry(**{**e, "widths": tuple(e["widths"])}) for e in state["entries"])
