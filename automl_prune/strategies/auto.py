"""Auto: uniform and depth-wise widths first, then local search guided by a surrogate of every network scored so far.

*Starting.* The widest uniform network, that of a global ranking of all channels, four profiles (narrower early, late, at the
ends, in the middle) and what :mod:`~automl_prune.strategies.sensitivity` solves for on the curves as they are. Where nothing
was measured, as with the default preset, these are a tiny penalty on uneven cuts and nothing else: the one or two networks
solved for are then near-even ones that use up what the uniform width leaves of the budget. *Searching.* A Gaussian process
(``_surrogate.py``) is fitted to all feasible scores. Of some hundred new networks within the budgets (the leaders by its
mean, with a few widths moved and all scaled to the budget; exchanges on its additive part; and the best of both moved again)
the one of largest expected improvement is asked for (Jones et al. 1998; local candidates around the leaders as in TuRBO,
Eriksson et al. 2019, arXiv 1910.01739). Networks in flight count as scored with what is expected of them (Ginsbourger et al.
2010). *Ending.* The last ``confirm`` of the trials are new networks, too, but those where the surrogate's mean is highest,
without a bonus for what is unsure. No network is asked for twice: evaluators seed by candidate, so the answer would be the
same number. What confirms the leaders is the search itself, where the recipe scores on a part of the select split: it scores
them again on more of it.

Nothing is measured outside the budgets by default: on synthetic problems at 30 to 150 trials the map mostly cost more than
it brought. Preset ``measured`` spends up to three tenths of the trials on the map of ``sensitivity``, whose drops are then
the surrogate's prior mean. Told the map of an earlier search, ``default`` uses it too. How it compares with the others is
measured by ``tests/benchmarks/strategies.py``, and told in the README.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from automl_prune.problem import FloatArray, IntArray, Problem
from automl_prune.space import Candidate
from automl_prune.strategies._surrogate import Scales, Surrogate, log_expected_improvement
from automl_prune.strategies.base import STRATEGIES, Proposal
from automl_prune.strategies.sensitivity import Sensitivity, SensitivityOptions
from automl_prune.trial import Trial, TrialState

PROFILES = ((-0.4, 0.0), (0.4, 0.0), (0.0, 0.4), (0.0, -0.4))
"""Tilt and bend of log widths over the depth, from the first group to the last."""
ENOUGH = 3
"""Feasible scores that the surrogate wants; before, neighbours are drawn as ``sensitivity`` draws them."""
LEADERS = 5
"""Networks around which candidates are moved, the best by the surrogate's mean."""
MOVED = 64
"""Candidates moved at once."""
MOVES = 4
"""Groups of a leader that are moved on purpose, at most."""
STEP, STEP_SPREAD = 0.15, 0.7
"""Median standard deviation of a move as a part of the full width, and the spread of its logarithm."""
TOP = 8
"""Candidates of largest expected improvement that are moved again."""
TILT = 0.3
"""Standard deviation of the logarithm that tilts the additive part before exchanges on it."""
HALVINGS = 9
"""Bisections of the factor that scales a candidate to the budget."""
REFIT = 1.1
"""Hyperparameters are chosen anew when there are this many times as many scores."""


class AutoOptions(SensitivityOptions):
    """Options of auto, which needs none; most are those of its map."""

    share: float = Field(0.0, ge=0, le=1, description="Most of the search's trials that may measure groups one by one.")
    points: int = Field(
        4, ge=1, le=256, description="Widths measured per group on average, the full one not counted; with scan, its steps."
    )
    confirm: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Part of the trials, the last, that go to new networks of the highest expected score, without a bonus.",
    )
    memory: int = Field(160, ge=16, le=1000, description="Scores that the surrogate holds: the best half and the latest.")


@STRATEGIES.register("auto")
class Auto(Sensitivity):
    """Surrogate-guided local search from simple starts; see the module for its parts."""

    name = "auto"
    help = "For those who do not want to choose: simple starts, then local search guided by a surrogate of all scores."
    paper = "EGO (Jones et al. 1998) with local candidates (TuRBO, Eriksson et al. 2019, arXiv 1910.01739)"
    Options = AutoOptions
    presets = {"default": {}, "measured": {"share": 0.3}}
    default_preset = "default"
    default_recipe = {preset: {"inherit": "l1", "recalibrate_batches": 20} for preset in presets}
    wants_starts = True
    options: AutoOptions

    def __init__(self, problem: Problem, options: AutoOptions, *, seed: int = 0) -> None:
        problem.check_reachable()
        super().__init__(problem, options, seed=seed)
        self.seen: dict[tuple[int, ...], float] = {}
        self.scales: Scales | None = None
        self.fitted = 0
        self._widest = np.asarray(problem.space.full.widths, dtype=np.float64)

    def tell(self, trial: Trial) -> None:
        """Remember a feasible score, and enter measurements into the map."""
        super().tell(trial)
        if trial.candidate not in self.problem.space:
            return
        score = self._score(trial.metrics) if trial.state is TrialState.COMPLETE else None
        if score is not None and self.problem.meets(trial.candidate, trial.metrics):
            self.seen[trial.candidate.widths] = score

    @property
    def limit(self) -> int:
        """Most measurements; none without a share."""
        return super().limit if self.options.share else 0

    @property
    def confirming(self) -> bool:
        """Whether this ask belongs to the last, which explore no more."""
        return self.trials is not None and self.asked >= (1 - self.options.confirm) * self.trials

    # Starts ----------------------------------------------------------------------------------------------------------

    def _first(self, rng: np.random.Generator) -> Proposal | None:
        """The uniform width, then what others would choose, then the profiles."""
        uniform = super()._first(rng)
        if uniform is not None or not self.options.explore:
            return uniform
        for name, candidate in self.starts.items():
            if candidate.widths not in self.tried and self._fits(candidate):
                return Proposal(candidate, {"phase": "start", "from": name})
        new = ((bend, c) for bend, c in zip(PROFILES, self._profiles, strict=True) if c.widths not in self.tried)
        return next((Proposal(c, {"phase": "profile", "tilt": t, "bend": b}) for (t, b), c in new if self._fits(c)), None)

    @cached_property
    def _profiles(self) -> list[Candidate]:
        """Widths that tilt and bend over the depth, scaled into the budgets."""
        depth = np.linspace(-1, 1, len(self._widest))
        shapes = [np.exp(tilt * depth + bend * (1 - 2 * depth**2)) for tilt, bend in PROFILES]
        snapped = [self.problem.space.snap(self._widest * shape / shape.max()) for shape in shapes]
        return [self.problem.fill(self.problem.fit(c, grow=True)) for c in snapped]

    def _fits(self, candidate: Candidate) -> bool:
        return self.problem.is_feasible(candidate)

    # The surrogate's choice ------------------------------------------------------------------------------------------

    def _nearby(self, rng: np.random.Generator) -> Proposal | None:
        """The new network of largest expected improvement, or highest mean at the end, among many around the leaders."""
        if len(self.seen) < ENOUGH:
            return super()._nearby(rng)
        rows = self._remembered()
        model = self._fitted(rows)
        mean, _ = model.predict(*self._inputs(rows))
        leaders, best = rows[np.argsort(-mean, kind="stable")[:LEADERS]], float(mean.max())
        tables = self._tables(model)
        pool = self._new(np.vstack([self._moved(leaders, rng), self._exchanged(leaders[0], tables, rng)]))
        if len(pool):
            top = pool[np.argsort(-self._worth(model, pool, best), kind="stable")[:TOP]]
            pool = self._new(np.vstack([pool, self._moved(top, rng), self._exchanged(top[0], tables, rng)]))
        if not len(pool):
            return super()._nearby(rng)
        chosen = pool[int(np.argmax(self._worth(model, pool, best)))]
        return Proposal(Candidate(tuple(chosen.tolist())), {"phase": "confirm" if self.confirming else "surrogate"})

    def _worth(self, model: Surrogate, rows: IntArray, best: float) -> FloatArray:
        mean, deviation = model.predict(*self._inputs(rows))
        return mean if self.confirming else log_expected_improvement(mean, deviation, best)

    def _remembered(self) -> IntArray:
        """Widths of the scores that the surrogate holds, ``[scores, groups]``."""
        items, half = list(self.seen.items()), self.options.memory // 2
        if len(items) > self.options.memory:
            items = sorted(items[:-half], key=lambda item: -item[1])[:half] + items[-half:]
        return np.array([widths for widths, _ in items], dtype=np.int64)

    def _fitted(self, rows: IntArray) -> Surrogate:
        """The surrogate of these networks, and of those in flight at what is expected of them."""
        scores = np.array([self.seen[tuple(row)] for row in rows.tolist()])
        if self.scales is None or len(self.seen) > REFIT * self.fitted:
            self.scales, self.fitted = None, len(self.seen)
        model = Surrogate(*self._inputs(rows), scores, self.scales)
        self.scales = model.scales
        if not self.open:
            return model
        flying = np.array(list(self.open), dtype=np.int64)
        expected, _ = model.predict(*self._inputs(flying))
        return Surrogate(*self._inputs(np.vstack([rows, flying])), np.concatenate([scores, expected]), self.scales)

    def _inputs(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Cuts ``[networks, groups]`` and predicted total drops ``[networks]``."""
        places = np.searchsorted(self._flat, rows + self._offsets)
        return 1 - rows / self._widest, np.concatenate(self.curves)[places].sum(axis=1)

    def _tables(self, model: Surrogate) -> list[FloatArray]:
        """What each width of each group costs by the surrogate's additive part."""
        lines, parabolas, factor = model.slopes()
        cuts = [1 - np.asarray(choices) / choices[-1] for choices in self.problem.space.choices]
        return [factor * self.curves[g] - lines[g] * c - parabolas[g] * c**2 for g, c in enumerate(cuts)]

    # Candidates ------------------------------------------------------------------------------------------------------

    def _moved(self, parents: IntArray, rng: np.random.Generator) -> IntArray:
        """``MOVED`` networks or fewer, each a parent with some groups moved by chance, scaled to the budget."""
        groups = parents.shape[1]
        many = rng.integers(1, min(groups, MOVES) + 1, (MOVED, 1))
        chosen = rng.random((MOVED, groups)) < many / groups
        chosen[np.arange(MOVED), rng.integers(groups, size=MOVED)] = True
        step = STEP * np.exp(STEP_SPREAD * rng.standard_normal((MOVED, 1)))
        moves = chosen * step * self._widest * rng.standard_normal((MOVED, groups))
        return self._scaled(np.maximum(parents[rng.integers(len(parents), size=MOVED)] + moves, 0.5))

    def _scaled(self, widths: FloatArray) -> IntArray:
        """Those of real-valued networks, each scaled by its own largest factor below 2, that meet every budget.

        Where costs do not grow with widths, the factor is one beyond which a network no longer fits at first, which need not
        be the largest: looking for that at every one of so many found no better networks.
        """
        low, high = np.zeros(len(widths)), np.full(len(widths), 2.0)
        best = np.repeat(self.problem.space.array([self.problem.space.narrowest]), len(widths), axis=0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            snapped = self._snapped(widths * middle[:, None])
            fits = self.problem.excess(snapped) <= 0
            best[fits] = snapped[fits]
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return best[self.problem.feasible(best)]

    def _snapped(self, widths: FloatArray) -> IntArray:
        """The nearest allowed widths, as ``ChannelSpace.snap_all`` finds them group by group, in one go."""
        places = np.searchsorted(self._borders, np.minimum(widths, self._widest) + self._offsets, side="right")
        return self._flat[places] - self._offsets

    @cached_property
    def _offsets(self) -> IntArray:
        """What sets the widths of each group above those of the groups before, ``[groups]``."""
        span = max(self.problem.space.full.widths) + 1
        return span * np.arange(len(self.problem.space), dtype=np.int64)

    @cached_property
    def _flat(self) -> IntArray:
        """The choices of all groups, set apart by ``_offsets``, ascending."""
        return np.concatenate([np.asarray(c) + o for c, o in zip(self.problem.space.choices, self._offsets, strict=True)])

    @cached_property
    def _borders(self) -> FloatArray:
        """Where each entry of ``_flat`` gives way to the next."""
        ends = np.append(self._flat[1:], self._flat[-1] + 1)
        last = np.cumsum([len(c) for c in self.problem.space.choices]) - 1
        borders: FloatArray = (self._flat + ends) / 2
        borders[last] = self._flat[last] + 0.25
        return borders

    def _exchanged(self, row: IntArray, tables: list[FloatArray], rng: np.random.Generator) -> IntArray:
        """One network after exchanges on tilted losses, ``[1, groups]``."""
        tilts = np.exp(TILT * rng.standard_normal(len(tables)))
        tilted = [tilt * (table - table.min()) for tilt, table in zip(tilts, tables, strict=True)]
        found = self.solver.improve(Candidate(tuple(row.tolist())), tilted, rounds=2)
        return self.problem.space.array([found] if self._fits(found) else [])

    def _new(self, rows: IntArray) -> IntArray:
        """Distinct rows that were not asked for."""
        distinct = {tuple(row): None for row in rows.tolist()}
        return self.problem.space.array([Candidate(widths) for widths in distinct if widths not in self.tried])

    # Memory ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the map remembers, the feasible scores and the surrogate's hyperparameters, as JSON data."""
        return super().state_dict() | {
            "seen": [[list(widths), score] for widths, score in self.seen.items()],
            "scales": None if self.scales is None else asdict(self.scales),
            "fitted": self.fitted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.seen = {tuple(widths): score for widths, score in state["seen"]}
        self.scales = None if state["scales"] is None else Scales(**state["scales"])
        self.fitted = int(state["fitted"])
