"""Options of AMC, and those that contradict each other."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from automl_prune.errors import FieldError, SpecError
from automl_prune.strategies._ddpg import AgentSettings
from automl_prune.strategies.base import StrategyOptions

RESOURCE = {"accuracy_macs": "macs", "accuracy_params": "params"}
"""The metric that a reward takes the logarithm of."""


class AmcOptions(StrategyOptions):
    """Options of AMC."""

    reward: Literal["constrained", "accuracy_macs", "accuracy_params"] = Field(
        "constrained",
        description="constrained: the score; the budget bounds what is tried. accuracy_…: minus error times log of the "
        "resource, for small networks that lose hardly anything; it ranks the leaders too. The budget is then only a bound "
        "(max_ratio 1 is none), and fill, which would use it up, must be off: it is unless you order it.",
    )
    lower_bound: float | None = Field(
        None, ge=0, le=1, description="Least part of every width; null for 0.2, or less where the budget needs it."
    )
    episodes: int | None = Field(None, ge=1, le=1_000_000, description="Episodes in all; null for the search's trials.")
    warmup: int | None = Field(None, ge=0, le=1_000_000, description="Episodes of random actions; null for a quarter.")
    explore: Literal["random", "around_uniform"] = Field(
        "random", description="Actions while warming up: uniform in 0 to 1, or near the uniform width, which comes first."
    )
    sigma: float = Field(0.5, ge=0, le=10, description="Standard deviation of the noise after warming up.")
    sigma_decay: float | None = Field(
        None, gt=0, le=1, description="Its factor per episode; null for one that ends where 0.99 would after 300."
    )
    patience: int | None = Field(
        50, ge=1, description="Episodes without a better one that end a search with hardly any noise left; null: none."
    )
    returns: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the episodes after warming up that blur the best one's actions, not the actor's.",
    )
    distinct: bool = Field(False, description="Draw again, with more noise, what was tried before.")
    fill: bool = Field(False, description="Widen every candidate by one factor until the budget is used.")
    named: bool = Field(False, description="Give the agent one more feature per layer; the paper's state has eleven in all.")
    parallel: int = Field(
        1, ge=1, le=1024, description="Episodes per update of the agent, evaluated at once; the paper has 1."
    )
    updates: int | None = Field(None, ge=0, le=10_000, description="Updates per episode; null for one per step.")
    hidden: int = Field(300, ge=1, le=4096, description="Units of each of the two hidden layers of actor and critic.")
    actor_lr: float = Field(1e-4, gt=0, le=1, description="Adam's rate for the actor.")
    critic_lr: float = Field(1e-3, gt=0, le=1, description="Adam's rate for the critic.")
    batch: int = Field(64, ge=1, le=4096, description="Transitions of an update.")
    tau: float = Field(0.01, gt=0, le=1, description="Part of the new networks in their targets after an update.")
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of what comes later in an episode.")
    baseline: float = Field(0.5, ge=0, le=1, description="How fast the moving baseline follows the rewards; 0: none.")
    replay: int = Field(2000, ge=1, le=100_000, description="Transitions remembered.")

    def agent(self) -> AgentSettings:
        """The agent's part."""
        return AgentSettings(**{name: getattr(self, name) for name in AgentSettings.__dataclass_fields__})


def check_episodes(made: AmcOptions, given: Mapping[str, Any]) -> None:
    """Raise SpecError for options by which no episode would be the agent's; it names the one that was given."""
    if made.episodes is None or made.warmup is None or made.episodes > made.warmup:
        return
    option = "warmup" if "warmup" in given or "episodes" not in given else "episodes"
    said = (
        f"The first {made.warmup:,} episodes are random (warmup), and there are {made.episodes:,} in all (episodes), so an "
        f"agent would never act. Raise episodes, lower warmup, or let it be null: a quarter of the episodes."
    )
    raise SpecError([FieldError(f"/strategy/options/{option}", said, "too_few_episodes")])
