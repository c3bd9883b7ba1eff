"""Which groups' widths went together with the score in the trials of a search."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from automl_prune.report.told import ARMS, Json, Told

FEWEST_TRIALS = 10
MOST_TRIALS = 1000


def importances(told: Told) -> list[tuple[str, float]]:
    """Spearman's rank correlation of each group's width with how good the score is, strongest first.

    Groups that kept one width are left out; nothing where fewer than ten trials were scored.
    """
    trials = evenly([trial for arm in ARMS for trial in told.scored(arm)], MOST_TRIALS)
    if len(trials) < FEWEST_TRIALS:
        return []
    sign = 1 if told.is_better(1, 0) else -1
    scores = rankdata([sign * trial["metrics"][told.metric] for trial in trials])
    widths = {name: rankdata([trial["widths"][name] for trial in trials]) for name in trials[0]["widths"]}
    if np.ptp(scores) == 0:
        return []
    found = [(name, float(np.corrcoef(ranks, scores)[0, 1])) for name, ranks in widths.items() if np.ptp(ranks) > 0]
    return sorted(found, key=lambda one: -abs(one[1]))


def ranked(told: Told) -> list[Json]:
    """Scored trials of all arms, the best first."""
    sign = -1 if told.is_better(1, 0) else 1
    return sorted((trial for arm in ARMS for trial in told.scored(arm)), key=lambda t: sign * t["metrics"][told.metric])


def evenly(trials: Sequence[Json], most: int) -> list[Json]:
    """At most so many of them, evenly from first to last."""
    if len(trials) <= most:
        return list(trials)
    return [trials[i * len(trials) // most] for i in range(most)]
