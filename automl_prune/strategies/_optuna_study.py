"""An optuna study in memory that asks for networks within budgets, and remembers what it was told.

Only the strategy ``optuna`` imports this module, and only once it is used: the library is slow to import.
"""

import math
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl_prune.space import Candidate, ChannelSpace

Sampler = Literal["tpe", "cmaes", "gp", "nsgaii", "qmc", "random"]
Ending = Literal["complete", "pruned", "fail"]
Repair = Callable[[Candidate], Candidate]
DRAWS = 4
"""Times a sampler is asked again for a network that was not asked for yet; after that a repetition is let through."""
FEW = 20
"""Generation of NSGA-II: optuna's 50 leave too few generations to some hundreds of evaluations."""

# It reports every study, and every first trial that its models have too little to say about.
optuna.logging.set_verbosity(optuna.logging.ERROR)


class WidthStudy:
    """Trials of one space, minimising ``objectives`` losses; numbers of trials are optuna's own.

    Args:
        space: What is searched; widths are real numbers to optuna, as its models for integers are many times slower.
        sampler: Its sampler, by name.
        objectives: Length of every ``losses``.
        seed: What scrambles a quasi-random sequence, which all asks share.
        startup: Trials that ``tpe`` and ``gp`` want before they model.
        population: Size of a generation of ``nsgaii`` (None is ``FEW``) and ``cmaes`` (None is optuna's own).
        memory: Ended trials that the sampler sees, half of them the best and half the latest; None is all.
    """

    def __init__(
        self,
        space: ChannelSpace,
        sampler: Sampler,
        *,
        objectives: int,
        seed: int,
        startup: int,
        population: int | None,
        memory: int | None,
    ) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        self._startup, self._population = startup, population
        self._distributions = distributions(space)
        self._storage = LatestAndBest(memory)
        directions = [StudyDirection.MINIMIZE] * objectives
        self._study = optuna.create_study(storage=self._storage, sampler=RandomSampler(0), directions=directions)
        self._asked: set[Candidate] = set()

    @property
    def generation(self) -> int:
        """Size of a generation of ``nsgaii`` or ``cmaes``; what was put is in none."""
        if self._population is not None or self._sampler == "nsgaii":
            return self._population or FEW
        groups = sum(not d.single() for d in self._distributions.values())
        return 4 + math.floor(3 * math.log(max(1, groups)))

    def ask(self, seed: int, repair: Repair, given: Candidate | None = None) -> tuple[int, Candidate, bool]:
        """A trial's number, its repaired candidate, which is all that optuna learns of, and whether repair changed it.

        The same seed asks the same of a study with the same past. With ``given`` the sampler takes the same notes as it did
        then, but this is what is asked.
        """
        sampler = Repaired(self._space, self._make(seed), repair, self._asked, given)
        number, candidate = self._open(sampler)
        return number, candidate, sampler.repaired

    def put(self, candidate: Candidate) -> int:
        """The number of a trial whose candidate is given, and of which the sampler takes no notes."""
        return self._open(Repaired(self._space, RandomSampler(0), lambda _: candidate, ()))[0]

    def _open(self, sampler: "Repaired") -> tuple[int, Candidate]:
        self._study.sampler = sampler
        trial = self._study.ask(self._distributions)
        candidate = self._space.snap([trial.params[name] for name in self._space.names])
        self._asked.add(candidate)
        return trial.number, candidate

    def tell(self, number: int, ending: Ending, losses: list[float] | None = None) -> None:
        """End a trial; ``losses`` belong to complete ones alone."""
        self._study.tell(number, losses, state=TrialState[ending.upper()])

    def add(self, candidate: Candidate, losses: list[float]) -> None:
        """Record a complete trial that was not asked for."""
        params = as_params(self._space, candidate)
        self._study.add_trial(create_trial(params=params, distributions=self._distributions, values=losses))

    def _make(self, seed: int) -> BaseSampler:
        """A sampler without a past; whatever lasts from ask to ask lies in the study."""
        match self._sampler:
            case "tpe":
                return TPESampler(n_startup_trials=self._startup, seed=seed)
            case "gp":
                return GPSampler(n_startup_trials=self._startup, seed=seed, warn_independent_sampling=False)
            case "cmaes":
                return CmaEsSampler(n_startup_trials=0, popsize=self._population, seed=seed, warn_independent_sampling=False)
            case "nsgaii":
                return NSGAIISampler(population_size=self._population or FEW, seed=seed)
            case "qmc":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    return QMCSampler(scramble=True, seed=self._seed, warn_independent_sampling=False)
            case "random":
                return RandomSampler(seed)


class Repaired(BaseSampler):
    """A sampler whose every proposal is moved onto the widths and into the budgets before optuna records it.

    Asks the inner sampler again while it proposes what was ``known``, at most ``DRAWS`` times.
    """

    def __init__(
        self,
        space: ChannelSpace,
        inner: BaseSampler,
        repair: Repair,
        known: Container[Candidate],
        given: Candidate | None = None,
    ) -> None:
        self._space, self._inner, self._repair, self._known, self._given = space, inner, repair, known, given
        self._searched = {name: d for name, d in distributions(space).items() if not d.single()}
        self.repaired = False

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All groups with a choice, known without a look at past trials."""
        return self._searched

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, float]:
        """The repaired proposal as widths by group."""
        for _ in range(DRAWS):
            drawn = self._draw(study, trial, search_space)
            fitted = self._repair(drawn)
            if fitted not in self._known:
                break
        self.repaired = fitted != drawn
        return as_params(self._space, self._given or fitted)

    def _draw(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Candidate:
        drawn: Mapping[str, Any] = self._inner.sample_relative(study, trial, search_space)
        widths = [float(choices[0]) for choices in self._space.choices]
        for place, name in enumerate(self._space.names):
            if name in drawn:
                widths[place] = drawn[name]
            elif name in search_space:
                widths[place] = self._inner.sample_independent(study, trial, name, search_space[name])
        return self._space.snap(widths)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One width from the inner sampler; optuna asks for none, as all are sampled together."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


def distributions(space: ChannelSpace) -> dict[str, BaseDistribution]:
    """The range of every group's widths."""
    ends = ((float(choices[0]), float(choices[-1])) for choices in space.choices)
    return {name: FloatDistribution(*end) for name, end in zip(space.names, ends, strict=True)}


def as_params(space: ChannelSpace, candidate: Candidate) -> dict[str, float]:
    """A candidate as optuna's parameters."""
    return {name: float(width) for name, width in space.widths(candidate).items()}


class LatestAndBest(InMemoryStorage):
    """A storage that shows its sampler at most ``memory`` of the ended trials: the best half and the latest half.

    Trials in flight are always shown. With several objectives the best have the lowest mean place in them.
    """

    def __init__(self, memory: int | None) -> None:
        super().__init__()
        self._memory = memory

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Trials in order of number, without those that are forgotten."""
        trials = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        scored = [t for t in trials if t.state is TrialState.COMPLETE]
        if self._memory is None or len(scored) <= self._memory:
            return trials
        latest = self._memory // 2
        places = np.argsort(np.argsort([t.values for t in scored[:-latest]], axis=0, kind="stable"), axis=0)
        best = np.argsort(places.mean(axis=1), kind="stable")[: self._memory - latest]
        kept = {scored[i].number for i in best.tolist()} | {t.number for t in scored[-latest:]}
        first = scored[-latest].number
        return [t for t in trials if t.number in kept or not t.state.is_finished() or t.number >= first]
