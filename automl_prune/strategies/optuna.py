"""Optuna's samplers over widths (Akiba et al. 2019, arXiv 1907.10902), within budgets and without optuna's storage.

========  =========================================================================================  ========
sampler   what it is                                                                                 own time
========  =========================================================================================  ========
tpe       tree-structured Parzen estimator, multivariate (Watanabe 2023, arXiv 2304.11127)           21 ms
cmaes     covariance matrix adaptation evolution strategy (Hansen 2016, arXiv 1604.00772)            9 ms
gp        Gaussian process, log expected improvement (Ament et al. 2023, arXiv 2310.20708)           0.5 s
nsgaii    NSGA-II, a genetic algorithm where there is one objective (Deb et al. 2002, IEEE TEVC 6)   5 ms
qmc       scrambled Sobol' sequence (Bergstra & Bengio 2012, JMLR 13)                                7 ms
random    independent uniform widths                                                                 5 ms
========  =========================================================================================  ========

Own time is the processor's per trial, asking and telling, at 1,000 trials of 50 groups with 64 widths each, as in the README
(``tests/benchmarks/thinking.py``). ``tpe`` and ``gp`` would grow with the trials, so they look at ``memory`` of them; ``gp``
is for evaluations of half a minute and more.

Each proposal is moved to the nearest widths and scaled into the budgets before optuna records it, so that its models learn
from the networks that were evaluated. Trials in flight are RUNNING to optuna: ``tpe`` keeps away from them (constant liar),
``gp`` integrates over them, the others only do not ask for them again. A failed trial says nothing of its widths; one that
was stopped or infeasible is PRUNED, and ``tpe`` counts it among the bad ones.

The sampler of ask *n* is made anew and seeded from (seed, n). What is kept is the conversation as JSON; holding it again
rebuilds the study, in 3 to 6 s (cmaes: 11 s) for 1,000 trials of 50 groups.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from automl_prune.errors import UnknownNameError
from automl_prune.problem import Problem
from automl_prune.space import Candidate
from automl_prune.strategies.base import STRATEGIES, CostMetrics, Opening, Proposal, Strategy, StrategyOptions
from automl_prune.trial import Trial, TrialState

if TYPE_CHECKING:
    from automl_prune.strategies._optuna_study import Ending, WidthStudy

SEES_TRIALS_ALONE = ("tpe", "gp", "random")
"""Samplers that keep nothing beside the trials; the others keep generations or places in a sequence."""
MEMORY = {"tpe": 200, "gp": 100}
"""Scored trials that samplers look at whose time grows with them."""
SERVES = {"startup": ("tpe", "gp"), "population": ("nsgaii", "cmaes"), "memory": ("tpe", "gp")}
"""Samplers that an option is for; with others it may not be given."""
SEEDS = 2**31 - 1


class OptunaOptions(StrategyOptions):
    """Which of optuna's samplers, and the few of its settings that matter at some hundreds of evaluations."""

    sampler: Literal["tpe", "cmaes", "gp", "nsgaii", "qmc", "random"] = Field("tpe", description="Optuna's sampler.")
    include_uniform: bool = Field(True, description="Let the first candidate be the uniform width.")
    fill: bool = Field(
        True, description="Scale narrow proposals up until the budget is used, not only wide ones down; not with costs."
    )
    startup: int = Field(10, ge=1, le=10_000, description="Random trials before tpe and gp model anything.")
    population: int | None = Field(
        None, ge=4, le=10_000, description="Generation of nsgaii (None: 20) and cmaes (None: 4 + 3 ln groups)."
    )
    memory: int | None = Field(
        None,
        ge=20,
        le=100_000,
        description="Scored trials that tpe (None: 200) and gp (None: 100) look at: the best half and the latest half.",
    )
    costs: CostMetrics = Field((), description="Cost metrics to minimise beside the objective; not with cmaes.")

    @field_validator(*SERVES)
    @classmethod
    def _of_this_sampler(cls, value: int | None, info: ValidationInfo) -> int | None:
        serves, sampler = SERVES[info.field_name or ""], info.data.get("sampler")
        if value is not None and sampler is not None and sampler not in serves:
            raise ValueError(f"it is for {' and '.join(serves)}; leave it out with {sampler}")
        return value

    @model_validator(mode="after")
    def _one_objective_for_cmaes(self) -> "OptunaOptions":
        if self.sampler == "cmaes" and self.costs:
            raise ValueError("cmaes has one objective; leave costs out, or take tpe, gp or nsgaii")
        return self


@STRATEGIES.register("optuna")
class OptunaSearch(Strategy):
    """A sampler of optuna; see the module for what each is and takes."""

    name = "optuna"
    help = "Optuna's samplers: TPE, CMA-ES, Gaussian process, NSGA-II, quasi-random and random."
    paper = "Akiba et al. 2019, arXiv 1907.10902"
    Options = OptunaOptions
    default_recipe = {"default": {"inherit": "l1", "recalibrate_batches": 20}}
    options: OptunaOptions

    def __init__(self, problem: Problem, options: OptunaOptions, *, seed: int = 0) -> None:
        super().__init__(problem, options, seed=seed)
        known = problem.costs(problem.space.full)
        for place, metric in enumerate(options.costs):
            if metric not in known:
                raise UnknownNameError("cost metric", metric, known, pointer=f"/strategy/options/costs/{place}")
        self._forget()

    def _forget(self) -> None:
        self._past: list[list[Any]] = []
        self._flying: dict[int, tuple[int, Candidate]] = {}
        self._study = self._new_study()

    def _new_study(self) -> "WidthStudy":
        # optuna takes a third of a second to import, which nobody pays who searches with something else.
        from automl_prune.strategies._optuna_study import WidthStudy

        options = self.options
        return WidthStudy(
            self.problem.space,
            options.sampler,
            objectives=(1 if options.sampler == "cmaes" else len(self.problem.objectives)) + len(options.costs),
            seed=int(np.random.default_rng(self.seed).integers(SEEDS)),
            startup=options.startup,
            population=options.population,
            memory=(options.memory or MEMORY[options.sampler]) if options.sampler in MEMORY else None,
        )

    # The conversation ------------------------------------------------------------------------------------------------

    @property
    def opening(self) -> Opening | None:
        """What the sampler wants before it models, or its first generation, which the uniform width is no part of."""
        match self.options.sampler:
            case "tpe" | "gp":
                return Opening(self.options.startup, "startup")
            case "nsgaii" | "cmaes":
                return Opening(self._begins_uniform + self._study.generation, "population")
        return None

    def propose(self, rng: np.random.Generator) -> Proposal:
        """The sampler's next candidate, brought into the budgets; the uniform width first."""
        uniform = self.problem.widest_uniform
        if self.asked == 0 and self._begins_uniform:
            self._remember(["put", list(uniform.widths)])
            return Proposal(uniform, {"ask": 0, "sampler": "uniform"})
        number, candidate, repaired = self._study.ask(int(rng.integers(SEEDS)), self._repair(rng))
        self._flying[self.asked] = (number, candidate)
        self._past.append(["ask", list(candidate.widths)])
        return Proposal(candidate, {"ask": self.asked, "sampler": self.options.sampler}, repaired=repaired)

    @property
    def _begins_uniform(self) -> bool:
        return self.options.include_uniform and self.problem.is_feasible(self.problem.widest_uniform)

    def tell(self, trial: Trial) -> None:
        """End the trial in the study; a score of a network that was not asked for is learned all the same."""
        ask, ending, losses = trial.origin.get("ask"), self._ending(trial), self._losses(trial)
        if isinstance(ask, int) and 0 <= ask < self.asked:
            if ask not in self._flying:
                return
            if self._flying[ask][1] == trial.candidate:
                self._remember(["tell", ask, ending, losses])
                return
            self._remember(["tell", ask, "fail", None])
        if losses is not None and trial.candidate in self.problem.space:
            self._remember(["seen", list(trial.candidate.widths), losses])

    def _repair(self, rng: np.random.Generator) -> Callable[[Candidate], Candidate]:
        """Scaling into the budgets; where that misses a minimum, a random candidate that meets all."""

        def repair(drawn: Candidate) -> Candidate:
            fitted = self.problem.fill(self.problem.fit(drawn, grow=self.options.fill and not self.options.costs))
            return fitted if self.problem.is_feasible(fitted) else self.problem.sample(rng)[1]

        return repair

    def _ending(self, trial: Trial) -> "Ending":
        """Stopped and infeasible trials speak against their widths, which ``tpe`` hears; failed ones say nothing."""
        if self._losses(trial) is not None:
            return "complete"
        return "pruned" if trial.state in (TrialState.STOPPED, TrialState.INFEASIBLE) else "fail"

    def _losses(self, trial: Trial) -> list[float] | None:
        """What is minimised, or None without a full score."""
        if trial.state is not TrialState.COMPLETE or any(o.metric not in trial.metrics for o in self.problem.objectives):
            return None
        costs = self.problem.costs(trial.candidate)
        losses = self.problem.losses(trial.metrics) + [
            trial.metrics.get(metric, costs[metric]) for metric in self.options.costs
        ]
        losses = losses[:1] if self.options.sampler == "cmaes" else losses
        return losses if all(map(isfinite, losses)) else None

    # Memory ----------------------------------------------------------------------------------------------------------

    def _remember(self, event: list[Any]) -> None:
        """Let something happen to the study that asks its sampler nothing, and keep it."""
        match event:
            case ["put" | "ask", widths]:
                candidate = Candidate(tuple(widths))
                self._flying[self.asked] = (self._study.put(candidate), candidate)
            case ["tell", ask, ending, losses]:
                self._study.tell(self._flying.pop(ask)[0], ending, losses)
            case ["seen", widths, losses]:
                self._study.add(Candidate(tuple(widths)), losses)
        self._past.append(event)

    def state_dict(self) -> dict[str, Any]:
        """The conversation so far, as JSON data."""
        return super().state_dict() | {"past": [list(event) for event in self._past]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the conversation again; only samplers with notes of their own are really asked."""
        self._forget()
        self.asked = 0
        for event in state["past"]:
            self._replay(event)
        super().load_state_dict(state)

    def _replay(self, event: list[Any]) -> None:
        kind, *_ = event
        if kind == "ask" and self.options.sampler not in SEES_TRIALS_ALONE:
            rng = np.random.default_rng([self.seed, self.asked])
            given = Candidate(tuple(event[1]))
            number, *_ = self._study.ask(int(rng.integers(SEEDS)), self._repair(rng), given)
            self._flying[self.asked] = (number, given)
            self._past.append(event)
        else:
            self._remember(event)
        self.asked += kind in ("ask", "put")
