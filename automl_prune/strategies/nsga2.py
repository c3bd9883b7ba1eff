"""NSGA-II (Deb et al. 2002, IEEE Transactions on Evolutionary Computation 6(2)): evolution towards a whole trade-off.

Minimised are all objectives of the problem and the costs named in ``costs``, within the budgets. The survivors of parents
and children together are the best fronts of the non-dominated sort (section III-A); the front that does not fit is thinned
by crowding distance (III-B), and children come from parents that win binary tournaments by front, then by distance
(crowded-comparison operator). Everything scored and never dominated is kept as ``front``, thinned or not.

``published`` has the paper's numbers for discrete genes (section IV): 100 candidates, 250 generations, crossover with chance
0.9, mutation with chance 1 / genes. Its bit-string operators become a uniform crossover and the draw of another width, and
candidates over budget are drawn again instead of ranked behind. ``modern`` is for few evaluations: smaller generations,
starting around uniform widths, mutants step to widths nearby, what exceeds a budget is scaled down, and half of the children
(``leaders``) have parents that won by the first objective alone and are scaled up to the budget, as a whole front leaves few
evaluations to the end of it that is wanted most.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from automl_prune.errors import UnknownNameError
from automl_prune.pareto import crowding, dominates, ranks
from automl_prune.problem import Problem
from automl_prune.strategies._genetics import GenerationalOptions, GenerationalSearch, IntArray, Member, crossed
from automl_prune.strategies.base import STRATEGIES, CostMetrics
from automl_prune.trial import Trial


class NSGA2Options(GenerationalOptions):
    """Options of NSGA-II."""

    costs: CostMetrics = Field(("macs",), description="Cost metrics to minimise beside the objectives.")
    leaders: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of a generation whose parents won by the first objective alone, and which is scaled up.",
    )
    crossover_rate: float = Field(0.9, ge=0, le=1, description="Chance that a child has two parents.")


@STRATEGIES.register("nsga2")
class NSGA2(GenerationalSearch):
    """Multi-objective evolution; see the module for the presets."""

    name = "nsga2"
    help = "NSGA-II: evolves a whole front of trade-offs between the objectives and any costs."
    paper = "Deb et al. 2002, IEEE TEVC 6(2), 182-197"
    Options = NSGA2Options
    presets = {
        "modern": {"population": 20, "mutation": "step", "mutation_rate": 0.2, "start": "uniform", "leaders": 0.5},
        "published": {"population": 100, "generations": 250, "mutation_rate": None, "over_budget": "reject"},
    }
    default_preset = "modern"
    default_recipe = {
        "modern": {"inherit": "l1", "recalibrate_batches": 20},
        "published": {"inherit": "l1", "recalibrate_batches": 20},
    }
    grown = ("leader",)
    options: NSGA2Options

    def __init__(self, problem: Problem, options: NSGA2Options, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        known = problem.costs(problem.space.full)
        for place, metric in enumerate(options.costs):
            if metric not in known:
                raise UnknownNameError("cost metric", metric, known, pointer=f"/strategy/options/costs/{place}")
        self.front: list[Member] = []

    def losses(self, trial: Trial) -> tuple[float, ...]:
        """The problem's objectives, then the chosen costs; as the trial reports them, where that was measured."""
        costs = self.problem.costs(trial.candidate)
        return (*super().losses(trial), *(trial.metrics.get(metric, costs[metric]) for metric in self.options.costs))

    def learn(self, member: Member) -> None:
        """Let it compete, and keep it on the front unless another dominates it."""
        super().learn(member)
        front, new = np.array([m.losses for m in self.front]).reshape(-1, len(member.losses)), np.array(member.losses)
        if not dominates(front, new).any():
            left = [m for m, beaten in zip(self.front, dominates(new, front).tolist(), strict=True) if not beaten]
            self.front = sorted([*left, member], key=lambda m: m.ask)

    def quotas(self) -> Mapping[str, int]:
        """Children of leaders, then of all; none before there are two survivors."""
        if len(self.survivors) < 2:
            return {}
        leaders = round(self.options.leaders * self.options.population)
        return {"leader": leaders, "child": self.options.population - leaders}

    def breed(self, operator: str, rng: np.random.Generator, count: int) -> tuple[IntArray, IntArray]:
        """Mutants of crossovers: of winners of binary tournaments, by the first objective alone where leaders are bred."""
        # Survivors stand in crowded-comparison order, so the one that stands first wins.
        parents: IntArray = rng.integers(len(self.survivors), size=(count, 2, 2)).min(axis=2)
        if operator == "leader":
            parents = np.argsort([m.losses[0] for m in self.survivors], kind="stable")[parents]
        genes = self.encode([m.widths for m in self.survivors])
        mothers, fathers = genes[parents[:, 0]], genes[parents[:, 1]]
        both = rng.random((count, 1)) < self.options.crossover_rate
        return self.mutate(rng, np.where(both, crossed(rng, mothers, fathers), mothers)), parents

    def select(self, members: list[Member]) -> list[Member]:
        """The best by front, then by crowding distance within it, then the earlier; in this order."""
        if not members:
            return []
        losses = np.array([m.losses for m in members])
        rank, distance = ranks(losses), np.empty(len(members))
        for level in range(int(rank.max()) + 1):
            distance[rank == level] = crowding(losses[rank == level])
        order = np.lexsort((-distance, rank))
        return [members[i] for i in order[: self.options.population].tolist()]

    def state_dict(self) -> dict[str, Any]:
        """The front too."""
        return super().state_dict() | {"front": [m.to_json() for m in self.front]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.front = [Member.from_json(m) for m in state["front"]]
