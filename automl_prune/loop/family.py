"""The networks that a strategy builds on: shown to clients while it searches, and the only ones whose weights stay."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from automl_prune.loop.arms import History
from automl_prune.loop.job import Artifact, SearchJob
from automl_prune.loop.ports import Store
from automl_prune.loop.standing import SEARCH
from automl_prune.space import ChannelSpace
from automl_prune.strategies.base import Strategy
from automl_prune.trial import Trial, TrialState

WEIGHTS = "weights"
"""Role of a searched trial's file that others may start from."""


class FamilyKeeper:
    """Follows a strategy's winners; told anew by a driver that took over, it comes to the same.

    The weights of a winner are recorded as it wins, so that a search which ends early serves those that it came to.

    Args:
        store: Where clients read of the winners, as ``family`` in the search's info, and of their files.
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
            self._record(strategy.family, history)
            self._family = strategy.family
            now = self._store.get_search(self._job.id)
            info = {"family": list(self._family)}
            self._store.set_state(now.id, self._job.attempt, now.state, reason=now.state_reason, info=info)
        kept = {*strategy.family, *strategy.heirs, *self._gone}
        for trial in history:
            if trial.arm == SEARCH and trial.number not in kept and (name := _file_to_delete(trial)):
                (self._artifacts / name).unlink(missing_ok=True)
                self._gone.add(trial.number)

    def _record(self, family: Sequence[int], history: History) -> None:
        """Record the weights of winners whose files are not recorded yet."""
        known = {artifact.name for artifact in self._store.artifacts(self._job.id)}
        for trial in history:
            name = weights_file(trial) if trial.number in family else None
            if name is not None and name not in known and (self._artifacts / name).is_file():
                self._store.add_artifact(self._job.id, self._job.attempt, Artifact.of(self._artifacts / name))


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
