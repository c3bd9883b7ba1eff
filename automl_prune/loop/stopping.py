"""When less than what was ordered is enough: a search that no longer gets better, trials that lag behind others."""

from automl_prune.errors import FieldError, SpecError
from automl_prune.evaluation.glances import marks
from automl_prune.evaluation.images import Images
from automl_prune.evaluation.recipe import Recipe
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import SEARCH
from automl_prune.problem import Loss, Problem
from automl_prune.trial import Trial, TrialState


class Patience:
    """Counts complete feasible trials of the search arm since the last that was better than all before it.

    Args:
        problem: What is searched.
        most: How many of these are enough; None is never enough.
        loss: What is least for the better one; None: the problem's first loss.
    """

    def __init__(self, problem: Problem, most: int | None, *, loss: Loss | None = None) -> None:
        self._problem, self._most = problem, most
        self._loss: Loss = loss or (lambda candidate, metrics: problem.losses(metrics)[0])
        self._best: float | None = None
        self._since = 0

    def tell(self, trial: Trial) -> None:
        """Count a trial that ended; in the order in which trials were told."""
        if self._most is None or trial.arm != SEARCH or trial.state is not TrialState.COMPLETE:
            return
        if self._problem.objectives[0].metric not in trial.metrics or not self._problem.meets(
            trial.candidate, trial.metrics
        ):
            return
        loss = self._loss(trial.candidate, trial.metrics)
        better = self._best is None or loss < self._best
        self._best, self._since = (loss, 0) if better else (self._best, self._since + 1)

    @property
    def over(self) -> bool:
        """Whether there were enough in a row."""
        return self._most is not None and self._since >= self._most


def check_early_stop(spec: SearchSpec, recipe: Recipe, images: Images) -> None:
    """Raise SpecError when trials cannot be stopped early: they are not trained, or not run by Ray Tune."""
    if spec.trials.early_stop is None:
        return
    steps = recipe.fine_tune.steps + round(recipe.fine_tune.epochs * images.fit_batches)
    if not marks(steps):
        raise _refused(
            f"Trials are stopped by how well they do while they are trained, and this recipe trains them for {steps} steps; "
            f"set recipe.fine_tune.steps to 2 or more, or leave early_stop out.",
            "nothing_to_stop",
        )
    if spec.execution not in ("auto", "tune"):
        raise _refused(
            f"Ray Tune alone stops trials early, not execution {spec.execution!r}; use 'tune' or 'auto'.", "needs_tune"
        )


def _refused(detail: str, code: str) -> SpecError:
    return SpecError([FieldError("/trials/early_stop", detail, code)])
