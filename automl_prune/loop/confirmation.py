"""Successive halving over the select split: leaders that were scored on a part of it are scored on more, round by round.

A candidate's score on *n* images has a standard error of sqrt(p (1 - p) / n), and the best of many noisy scores is too high.
Where a recipe scores candidates on a part of the select split (``select_images``), each round doubles the images and halves
the candidates, until the last round has ``top_k`` of them on all images (Karnin, Koren and Somekh 2013, Sequential Halving;
Jamieson and Talwalkar 2016, arXiv 1502.07943). Search and random control are treated alike.
"""

from collections.abc import Collection, Iterable

from automl_prune.evaluation.setup import SELECT_IMAGES
from automl_prune.loop.measured import Latencies, first_within
from automl_prune.problem import Loss, Problem, best_trials
from automl_prune.space import Candidate
from automl_prune.strategies.base import Proposal
from automl_prune.trial import Trial, TrialState


def rounds(images: int | None, whole: int) -> list[int]:
    """Images of each round, for candidates scored on ``images`` of ``whole`` before; none where they saw all."""
    found: list[int] = []
    while images is not None and images < whole:
        images = min(2 * images, whole)
        found.append(images)
    return found


def confirmed(
    problem: Problem,
    trials: Iterable[Trial],
    arm: str,
    *,
    keep: int,
    images: int,
    latencies: Latencies | None = None,
    after: Collection[Candidate] = (),
    loss: Loss | None = None,
) -> list[Proposal]:
    """The best ``keep`` of an arm's scored trials, to be made again alike and scored on ``images`` select images.

    The trials are all those of the round before, or the arm's own in the first round.
    """
    best = first_within(latencies, ranked(problem, trials, loss), keep, after=after)
    return [Proposal(t.candidate, {"of": first(t), "arm": arm, SELECT_IMAGES: images}, parent=t.parent) for t in best]


def ranked(problem: Problem, trials: Iterable[Trial], loss: Loss | None = None) -> list[Trial]:
    """The complete trials within the budgets, each candidate once, best first; ``loss`` is what ranks them."""
    scored = [t for t in trials if t.state is TrialState.COMPLETE]
    return [scored[i] for i in best_trials(problem, [(t.candidate, t.metrics) for t in scored], len(scored), loss=loss)]


def first(trial: Trial) -> int:
    """Number of the trial in which the candidate was scored first."""
    return int(trial.origin["of"]) if SELECT_IMAGES in trial.origin else trial.number
