"""The networks that a strategy builds on: shown to clients while it searches, and the only ones whose weights stay."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from automl_prune.loop.arms import History
from automl_prune.loop.job import SearchJob
from automl_prune.loop.ports import Store
from automl_prune.loop.standing import SEARCH
from automl_prune.space import ChannelSpace
from automl_prune.strategies.base import Strategy
from automl_prune.trial import Trial, TrialState

WEIGHTS = "weights"
"""Role of a searched trial's file that others may start from."""


class FamilyKeeper:
    """Follows a strategy's winners; told anew by a driver that took over, it comes to the same.

    Args:
        store: Where clients read of the winners, as ``family`` in the search's info.
        job: The claimed search.
        artifacts: The search's own folder.
    """

    def __init__(self, store: Store, job: SearchJob, artifacts: Path) -> None:
        self._store, self._job, self._artifacts = store, job, artifacts
        self._family: tuple[int, ...] = ()
        self._gone: set[int] = set()

    def follow(self, strategy: Strategy, history: History) -> None:
        """Publish a new winner, and delete the weights of trials that no other will start from."""
        if strategy.family != self._family:
            self._family = strategy.family
            now = self._store.get_search(self._job.id)
            info = {"family": list(self._family)}
            self._store.set_state(now.id, self._job.attempt, now.state, reason=now.state_reason, info=info)
        kept = {*strategy.family, *strategy.heirs, *self._gone}
        for trial in history:
            if trial.arm == SEARCH and trial.number not in kept and (name := _file_to_delete(trial)):
                (self._artifacts / name).unlink(missing_ok=True)
                self._gone.add(trial.number)


def weights_file(trial: Trial) -> str | None:
    """The file that a trial left for others to start from, if it did."""
    return trial.outcome.artifacts.get(WEIGHTS) if trial.outcome else None


def _file_to_delete(trial: Trial) -> str | None:
    """What a trial may have left: one that failed after it was trained names no file, and yet wrote one."""
    failed = trial.outcome is not None and trial.state is not TrialState.COMPLETE
    return f"{trial.name}.safetensors" if failed else weights_file(trial)


def family_json(space: ChannelSpace, family: Sequence[int], history: History) -> list[Mapping[str, Any]]:
    """A family's networks in order: trial, widths, metrics, kept units by group, and the file of their weights.

    A network whose weights were cut from the full one's leaves no file: its kept units say all.
    """
    trials = {t.number: t for t in history}
    return [
        {
            "trial": number,
            "widths": space.widths(trials[number].candidate),
            "metrics": dict(trials[number].metrics),
            "kept": outcome.details.get("kept"),
            "weights": weights_file(trials[number]),
        }
        for number in family
        if (outcome := trials[number].outcome)
    ]
