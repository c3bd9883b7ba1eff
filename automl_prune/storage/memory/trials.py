"""What drivers record about trials."""

from dataclasses import replace

from automl_prune.loop.job import EventKind, StoredTrial
from automl_prune.loop.standing import SEARCH, best_after
from automl_prune.space import Candidate
from automl_prune.storage import rules
from automl_prune.storage.memory.entries import Entry, Steps, now, open_trial
from automl_prune.trial import Outcome, Trial, TrialState


class Trials(Steps):
    """The part of the store that keeps the conversation about trials."""

    def record_ask(self, search_id: str, attempt: int, trial: Trial) -> int:
        """Store a new pending trial; returns its place in the event sequence."""
        kept = Trial(
            number=trial.number,
            candidate=Candidate(tuple(int(w) for w in trial.candidate.widths)),
            arm=trial.arm,
            origin=rules.plain(trial.origin, "The trial's origin"),
            parent=trial.parent,
            repaired=trial.repaired,
        )
        with self._lock:
            entry = self._owned(search_id, attempt)
            if kept.number in entry.trials:
                raise rules.already_asked(search_id, kept.number)
            seq = entry.next_place()
            entry.trials[kept.number] = StoredTrial(kept, asked_seq=seq, told_seq=None, asked_at=now(), ended_at=None)
            entry.touch()
            return seq

    def record_start(self, search_id: str, attempt: int, number: int) -> int:
        """Mark a trial as running and return its trial attempt, counted up when a lost worker had started it before."""
        with self._lock:
            entry = self._owned(search_id, attempt)
            stored = open_trial(entry, number)
            tries = stored.trial.attempt + (stored.started_at is not None)
            trial = replace(stored.trial, state=TrialState.RUNNING, attempt=tries)
            entry.trials[number] = replace(stored, trial=trial, started_at=now())
            entry.touch()
            self._emit(entry, EventKind.STARTED, rules.trial_news(number, trial.arm, tries))
            return tries

    def record_outcome(
        self, search_id: str, attempt: int, number: int, outcome: Outcome, *, trial_attempt: int | None = None
    ) -> int:
        """Store a trial's only outcome; LateOutcomeError when the trial was started again since ``trial_attempt``."""
        body = rules.outcome_to_json(outcome)
        kept = rules.outcome_from_json(body)
        with self._lock:
            entry = self._owned(search_id, attempt)
            stored = open_trial(entry, number)
            trial = stored.trial.with_outcome(kept)
            if trial_attempt is not None and trial_attempt < trial.attempt:
                raise rules.late(search_id, number, trial_attempt, trial.attempt)
            seq = entry.next_place()
            entry.trials[number] = replace(stored, trial=trial, told_seq=seq, ended_at=now())
            entry.touch(losses=0)
            self._emit(entry, EventKind.COMPLETED, rules.trial_news(number, trial.arm, trial.attempt, body))
            self._compare(entry, trial, kept)
            return seq

    def _compare(self, entry: Entry, trial: Trial, outcome: Outcome) -> None:
        """Keep the trial as the best of its arm, if it is."""
        job = entry.job
        best = best_after(job.spec, job.info, job.best, trial.number, trial.arm, outcome)
        if best is not None:
            entry.touch(best=best)
            if trial.arm == SEARCH:
                self._emit(entry, EventKind.BEST, rules.best_news(trial.number, outcome))
