"""AMC: an agent that decides layer by layer how much is kept (He et al. 2018, arXiv 1802.03494).

An ask is one episode: at each layer the agent sees eleven features (:mod:`~automl_prune.strategies._walk`) and answers with
a preserve ratio; the last answer completes the candidate. Its score, told, is the reward of every step, and the agent (DDPG,
:mod:`~automl_prune.strategies._ddpg`) makes one update per step. Episodes begin with random actions; then the actor's are
blurred by a truncated normal distribution whose width decays. Layers that share channels decide once, together.

*The budget* is kept by a bound on each action (the paper's Algorithm 1, in terms of MACs): no more is kept than leaves the
budget reachable with everything undecided at its lower bound. Here the bound follows from the true costs of whole widths,
with every layer that shares them, so no candidate exceeds any budget; the released code, which rounds up to multiples of 8
after bounding, may by 1.2 %. The bound has one side: nothing but the reward makes an agent use its budget.

``published`` has the paper's numbers: 100 + 300 episodes, noise of 0.5 that decays by 0.95 per episode, the action as the
actor gave it in the replay memory (not as it was bounded; storing that was no better), at most one episode outstanding.
Where paper and code differ (preserve ratios up to 8 more, 101 + 700 episodes), the paper counts, but for the warm-up: its
actions are the code's, uniform, where the paper blurs those of the actor by a noise that does not decay yet. It need not
make all 400 episodes: from about the 221st on hardly any noise is left, and 50 without a better one (``patience``) end it.

Two parts of the code are left out. In its state of ten features what was removed falls as layers are kept, as undecided
layers count at their lower bound. And ``use_new_input``, least squares on what the pruned layers before put out, is slow and
prone to overfit by its own account, and would make a layer's weights depend on the whole episode instead of its own choice.
Left out as well: the code samples features anew, of 300 batches instead of 60, for the weights it exports; here the winner
keeps those of the search, and its recovery starts from them. That recovery is the order's ``finish``; the published 150
epochs at a rate of 0.05 come with no preset.

What the published agent learns (``tests/benchmarks/amc.py``, on MobileNetV1's costs, with ``patience`` null): on the one toy
that tests use, its last 50 of 400 episodes lie 2.1 to 2.5 deviations of a random policy above that policy's mean, and its
best is better in six of six seeds. On toys drawn anew for each seed it is 1.24 to 2.62, in part below the 1.7 that the tests
ask for, and its best is better in three of six only: as chance would have it.

``modern`` divides the trials that the search has. It begins with the uniform width and its surroundings, lets the noise
decay more slowly, goes back to the best episode half of the time, widens every candidate to the budget and makes none twice.
Its agent knows each layer by a feature of its own, learns faster and is smaller: it thinks in a fraction of the time. One
more departure is what it remembers of an episode: in hindsight, the states of a walk to the network that was scored, not
those that it saw on its way to the one that was widened; the actions stay its own. ``published`` remembers what it saw.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_prune.errors import BudgetError, FieldError, SpecError
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies._amc_options import RESOURCE, AmcOptions, check_episodes
from automl_prune.strategies._ddpg import Agent, truncated_normal
from automl_prune.strategies._walk import Walk
from automl_prune.strategies.base import STRATEGIES, Opening, Proposal, Strategy, StrategyOptions
from automl_prune.trial import Trial, TrialState

LOWER_BOUND = 0.2
"""Least preserve ratio of the released code (``amc_search.py``, lbound)."""
EPISODES, EXPLORING = 400, 0.25
"""Episodes where nobody said how many trials there are, and the part that explores: the paper's 100 + 300."""
LEAST_NOISE = 1e-3
"""Noise below which episodes are alike; after ``patience`` of these without a better one, nothing more will come."""
REDRAWS = 8
"""Draws, each with more noise, for a candidate that was not made before."""


@dataclass(frozen=True)
class Episode:
    """What was made of a walk.

    Attributes:
        candidate: What is scored.
        actions: Of each step, before any bound.
        walked: The widths that the walk itself ended with.
        explored: Whether it was one of those that warm up.
    """

    candidate: Candidate
    actions: list[float]
    walked: tuple[int, ...]
    explored: bool

    def to_json(self) -> list[Any]:
        """JSON form; :meth:`from_json` reads it back equal."""
        return [list(self.candidate.widths), self.actions, list(self.walked), self.explored]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> "Episode":
        """Read :meth:`to_json`'s form."""
        return cls(Candidate(tuple(data[0])), list(data[1]), tuple(data[2]), bool(data[3]))


@STRATEGIES.register("amc")
class Amc(Strategy):
    """The agent's search; see the module for the presets."""

    name = "amc"
    help = "A DDPG agent decides each layer's preserve ratio in turn, within the budget."
    paper = "He et al. 2018 (AMC), arXiv 1802.03494"
    Options = AmcOptions
    presets = {
        "modern": {
            "explore": "around_uniform", "distinct": True, "fill": True, "named": True, "returns": 0.5, "hidden": 64,
            "actor_lr": 1e-3,
        },
        "published": {"lower_bound": LOWER_BOUND, "episodes": EPISODES, "warmup": 100, "sigma_decay": 0.95},
    }  # fmt: skip
    default_preset = "modern"
    default_recipe = {
        "modern": {"inherit": "l1", "reconstruct": "least_squares", "recalibrate_batches": 20},
        "published": {
            "inherit": "l1_inputs", "reduction": "first", "reconstruct": "least_squares", "recalibrate_batches": 0,
        },
    }  # fmt: skip
    options: AmcOptions

    @classmethod
    def read_options(cls, preset: str | None, options: Mapping[str, Any]) -> StrategyOptions:
        """As for any strategy, and SpecError where all episodes are random; some rewards turn a preset's ``fill`` off."""
        given = {"fill": False, **options} if options.get("reward") in list(RESOURCE) else options
        made = super().read_options(preset, given)
        if isinstance(made, AmcOptions):
            check_episodes(made, options)
        return made

    def __init__(self, problem: Problem, options: AmcOptions, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        problem.check_reachable()
        bound = LOWER_BOUND if options.lower_bound is None else options.lower_bound
        self.walk = Walk(problem, bound, named=options.named)
        if options.lower_bound is None:
            self.walk.lower_to_budget()
        else:
            _check_bound(problem, self.walk, bound)
        _check_reward(problem, options)
        self.agent = Agent(self.walk.features, options.agent(), seed=seed)
        self.voided = 0
        self.begun = 0
        self.flying: dict[int, Episode] = {}
        self.landed: dict[int, tuple[Episode, float]] = {}
        self.tried: dict[Candidate, None] = {}
        self.best: tuple[float, int, list[float]] | None = None

    # The conversation ------------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """One episode; None while a round is evaluated."""
        if self.begun >= self.options.parallel or self.episode >= self.episodes:
            return None
        exploring, sigma = self.episode < self.warmup, self.sigma
        candidate, actions = self._uniform() or self._episode(rng, exploring, sigma)
        made = self._repaired(candidate, rng)
        for again in range(1, 1 + REDRAWS if self.options.distinct else 1):
            if made not in self.tried:
                break
            candidate, actions = self._episode(rng, exploring, max(sigma, 0.02) * 1.5**again)
            made = self._repaired(candidate, rng)
        origin = {"phase": "explore" if exploring else "exploit", "episode": self.asked, "state": self._state}
        self.flying[self.asked] = Episode(made, actions, candidate.widths, exploring)
        self.tried[made] = None
        self.begun += 1
        return Proposal(made, origin | ({} if exploring else {"sigma": sigma}), repaired=made != candidate)

    def tell(self, trial: Trial) -> None:
        """Keep the episode and learn from its round when that is complete; one without a score never was."""
        number = trial.origin.get("episode")
        if not isinstance(number, int) or number not in self.flying or self.flying[number].candidate != trial.candidate:
            return
        episode = self.flying.pop(number)
        reward = self._reward(trial)
        if reward is None:
            self.voided += 1
        else:
            self.landed[number] = (episode, reward)
        if self.begun >= self.options.parallel and not self.flying:
            for number in sorted(self.landed):
                self._learn(*self.landed[number])
            self.landed.clear()
            self.begun = 0

    @property
    def opening(self) -> Opening:
        """The episodes of random actions."""
        return Opening(self.warmup, "warmup")

    @property
    def finished(self) -> bool:
        """Whether all episodes are back, or hardly any noise is left and nothing better came for long."""
        if self.flying:
            return False
        patience = self.options.patience
        stale = patience is not None and self.best is not None and self.episode - self.best[1] > patience
        return self.episode >= self.episodes or (stale and self.episode > self.warmup and self.sigma < LEAST_NOISE)

    # Episodes --------------------------------------------------------------------------------------------------------

    @property
    def episode(self) -> int:
        """Number of the next episode; those that were voided do not count."""
        return self.asked - self.voided

    @property
    def episodes(self) -> int:
        """Episodes in all."""
        return self.options.episodes or self.trials or EPISODES

    @property
    def warmup(self) -> int:
        """Episodes of random actions."""
        return round(EXPLORING * self.episodes) if self.options.warmup is None else self.options.warmup

    @property
    def sigma(self) -> float:
        """Standard deviation of the next episode's noise, after warming up."""
        decay = self.options.sigma_decay
        if decay is None:
            decay = 0.99 ** (300 / max(1, self.episodes - self.warmup))
        return float(self.options.sigma * decay ** max(0, self.episode - self.warmup))

    @property
    def _state(self) -> str:
        """Which state the agent saw, for the record."""
        return "paper-11+layer" if self.options.named else "paper-11"

    def _uniform(self) -> tuple[Candidate, list[float]] | None:
        """The first episode where warming up stays around it: every layer keeps the same ratio."""
        if self.asked or self.options.explore == "random" or not self.warmup:
            return None
        return self.problem.widest_uniform, [self._uniform_ratio] * len(self.walk.steps)

    @property
    def _uniform_ratio(self) -> float:
        return float(np.mean(np.asarray(self.problem.widest_uniform.widths) / self.walk.full))

    def _episode(self, rng: np.random.Generator, exploring: bool, sigma: float) -> tuple[Candidate, list[float]]:
        """What random actions, or the blurred ones of the actor, make."""
        if not exploring and self.best is not None and rng.random() < self.options.returns:
            best = iter(self.best[2])
            return self.walk.episode(lambda _: truncated_normal(rng, next(best), sigma / 2))
        if not exploring:
            return self.walk.episode(lambda state: truncated_normal(rng, self.agent.act(state), sigma))
        if self.options.explore == "random":
            return self.walk.episode(lambda _: rng.random())
        around = self._uniform_ratio
        return self.walk.episode(lambda _: truncated_normal(rng, around, self.options.sigma / 2))

    def _repaired(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """The candidate, or where it misses a minimum one that does not; with ``fill``, scaled up to the budget."""
        if self.options.fill:
            candidate = self.problem.fit(candidate, grow=True)
        if self.problem.is_feasible(candidate):
            return candidate
        filled = self.problem.fill(self.problem.fit(candidate))
        return filled if self.problem.is_feasible(filled) else self.problem.sample(rng)[1]

    # Learning --------------------------------------------------------------------------------------------------------

    def ranking_loss(self, candidate: Candidate, metrics: Mapping[str, float]) -> float:
        """Minus the reward: what the agent is taught is what its search ends with."""
        loss = super().ranking_loss(candidate, metrics)
        resource = RESOURCE.get(self.options.reward)
        if resource is None:
            return loss
        error = 1 + loss if self.problem.objectives[0].maximize else loss
        return error * math.log(max(self.problem.costs(candidate)[resource], 1.0))

    def _reward(self, trial: Trial) -> float | None:
        """What an episode earned; None for one that has no score."""
        if trial.state is not TrialState.COMPLETE or self.problem.objectives[0].metric not in trial.metrics:
            return None
        return -self.ranking_loss(trial.candidate, trial.metrics)

    def _learn(self, episode: Episode, reward: float) -> None:
        """Remember an episode step by step; after warming up, each with an update, as published."""
        actions = episode.actions
        if self.best is None or reward > self.best[0]:
            self.best = (reward, self.episode, actions)
        seen = episode.candidate.widths if self.options.fill else episode.walked
        states, last = self.walk.states(seen), len(actions) - 1
        for t, action in enumerate(actions):
            self.agent.remember(states[t], action, reward, states[min(t + 1, last)], last=t == last)
            if not episode.explored:
                for _ in range(self._updates(t, len(actions))):
                    self.agent.update()

    def _updates(self, t: int, steps: int) -> int:
        """Updates after a step: all of an episode's are spread evenly."""
        if self.options.updates is None:
            return 1
        return (t + 1) * self.options.updates // steps - t * self.options.updates // steps

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The agent, its memory and the episodes in flight, as JSON data."""
        return super().state_dict() | {
            "agent": self.agent.state_dict(),
            "voided": self.voided,
            "begun": self.begun,
            "flying": [[n, episode.to_json()] for n, episode in self.flying.items()],
            "landed": [[n, episode.to_json(), reward] for n, (episode, reward) in self.landed.items()],
            "tried": [list(c.widths) for c in self.tried],
            "best": None if self.best is None else list(self.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.agent.load_state_dict(state["agent"])
        self.voided, self.begun = state["voided"], state["begun"]
        self.flying = {n: Episode.from_json(data) for n, data in state["flying"]}
        self.landed = {n: (Episode.from_json(data), reward) for n, data, reward in state["landed"]}
        self.tried = {Candidate(tuple(widths)): None for widths in state["tried"]}
        self.best = (
            None if state["best"] is None else (float(state["best"][0]), int(state["best"][1]), list(state["best"][2]))
        )


def _check_bound(problem: Problem, walk: Walk, bound: float) -> None:
    """Raise BudgetError where even the lower bounds exceed a budget, which narrower networks meet."""
    if float(problem.excess(walk.lowest[None])[0]) > 0:
        raise BudgetError(
            f"No candidate that keeps {bound:g} of every width (lower_bound) is within the budgets. Lower it, or make it "
            f"null: then it is 0.2, or less where the budget needs it.",
            pointer="/strategy/options/lower_bound",
        )


def _check_reward(problem: Problem, options: AmcOptions) -> None:
    """Raise SpecError for a reward whose resource the problem does not count, or every candidate would use up alike."""
    reward, resource = options.reward, RESOURCE.get(options.reward)
    if resource is None:
        return
    if resource not in problem.costs(problem.space.full):
        raise SpecError([FieldError("/strategy/options/reward", f"{reward} needs the cost {resource!r}, not counted here.")])
    if options.fill:
        said = (
            f"fill widens every candidate to the budget, and {reward} is for networks smaller than that. Leave fill out, or "
            f"say false; or order the reward 'constrained'."
        )
        raise SpecError([FieldError("/strategy/options/fill", said, "excluded")])
