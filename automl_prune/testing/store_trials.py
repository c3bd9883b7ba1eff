"""What a store does with trials, snapshots and artifacts, and what it answers about things it does not know."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from automl_prune.errors import NotFoundError, StateConflictError
from automl_prune.loop.job import Artifact
from automl_prune.loop.ports import Store, replay_order
from automl_prune.space import Candidate
from automl_prune.testing.store_kit import CLIENT_CALLS, DRIVER_WRITES, SCORED, UNKNOWN, claimed, driven, trial
from automl_prune.trial import Outcome, Trial, TrialState


class TrialContract:
    """The part of the store's contract that is about trials and files."""

    # trials

    def test_a_trial_comes_back_as_it_was_asked(self, store: Store) -> None:
        """Candidate, arm, origin, parent and repair; pending, with its place and time."""
        search = driven(store)
        asked = Trial(0, Candidate((3, 5)), arm="final", origin={"kick": [1, 0.1]}, parent=4, repaired=True)
        seq = store.record_ask(search, 1, asked)
        stored = store.trial(search, 0)
        assert stored.trial == asked
        assert (stored.asked_seq, stored.told_seq, stored.started_at, stored.ended_at) == (seq, None, None, None)
        assert stored.asked_at.utcoffset() == timedelta(0)

    def test_trials_of_several_searches_are_read_at_once(self, store: Store) -> None:
        """Each as when it is read by itself; what is not there is left out."""
        one, two = driven(store, trials=3), driven(store, trials=1)
        keys = [(one, 0), (one, 2), (two, 0), (two, 1), ("srch_no", 0)]
        assert store.trials_by_key(keys) == {(search, n): store.trial(search, n) for search, n in keys[:3]}
        assert store.trials_by_key([]) == {}

    def test_trials_are_listed_by_number_arm_and_state(self, store: Store) -> None:
        """All filters hold at once; no numbers, no trials."""
        search = driven(store, trials=5)
        store.record_outcome(search, 1, 3, SCORED)

        def listed(**filters: Any) -> list[int]:
            return [t.trial.number for t in store.trials(search, **filters)]

        assert listed(numbers=[3, 1, 9]) == [1, 3]
        assert listed(numbers=[1, 3], state="complete") == [3]
        assert listed(numbers=[0, 1, 3], after=0, limit=1) == [1]
        assert listed(numbers=[1], arm="random") == []
        assert listed(numbers=[]) == []

    def test_an_outcome_comes_back_as_it_was_told(self, store: Store) -> None:
        """Every part of it, and the trial ends."""
        search = driven(store, trials=1)
        outcome = Outcome(
            TrialState.FAILED,
            metrics={"top1": 0.1 + 0.2, "loss": 1e-300},
            cost={"seconds": 1.5, "images": 512.0},
            reason="The loss rose — 木.",
            artifacts={"weights": "trial-0000.safetensors"},
            details={"steps": [1, 2, {"x": None}]},
        )
        assert store.record_start(search, 1, 0) == 1
        assert store.trial(search, 0).trial.state is TrialState.RUNNING
        seq = store.record_outcome(search, 1, 0, outcome)
        stored = store.trial(search, 0)
        assert stored.trial == replace(trial(0), state=TrialState.FAILED, outcome=outcome)
        assert stored.told_seq == seq
        assert stored.started_at is not None
        assert stored.ended_at is not None
        assert stored.asked_at <= stored.started_at <= stored.ended_at

    def test_the_conversation_can_be_replayed(self, store: Store) -> None:
        """Asks and outcomes share one strictly rising sequence; starts are no part of it."""
        search = driven(store)
        other = driven(store)
        script = [("ask", 0), ("ask", 1), ("tell", 1), ("ask", 2), ("tell", 2), ("tell", 0), ("ask", 3)]
        places = []
        for event, number in script:
            if event == "ask":
                places.append(store.record_ask(search, 1, trial(number)))
                store.record_start(search, 1, number)
                store.record_ask(other, 1, trial(number))
            else:
                places.append(store.record_outcome(search, 1, number, SCORED))
        replayed = list(replay_order(store.trials(search)))
        assert [(event, t.number) for _, event, t in replayed] == script
        assert [place for place, _, _ in replayed] == places
        assert places == sorted(set(places))

    def test_the_sequence_goes_on_with_the_next_attempt(self, store: Store) -> None:
        """A driver that takes over continues the conversation."""
        search = driven(store)
        first = store.record_ask(search, 1, trial(0))
        store.release(search, 1, reason="driver died")
        claimed(store)
        assert store.record_outcome(search, 2, 0, SCORED) > first

    def test_a_number_is_asked_once(self, store: Store) -> None:
        """A second trial of the same number is refused and takes no place in the sequence."""
        search = driven(store, trials=1)
        with pytest.raises(StateConflictError, match="Trial 0"):
            store.record_ask(search, 1, trial(0, arm="random"))
        assert store.trial(search, 0).trial.arm == "search"
        assert store.record_ask(search, 1, trial(1)) == store.trial(search, 0).asked_seq + 1

    def test_the_first_outcome_stays(self, store: Store) -> None:
        """A second one, and a start after the end, are refused and change nothing."""
        search = driven(store, trials=1)
        store.record_outcome(search, 1, 0, SCORED)
        ended = store.trial(search, 0)
        with pytest.raises(StateConflictError, match="Trial 0"):
            store.record_outcome(search, 1, 0, Outcome.failed("late"))
        with pytest.raises(StateConflictError, match="Trial 0"):
            store.record_start(search, 1, 0)
        assert store.trial(search, 0) == ended

    def test_an_outcome_is_terminal(self, store: Store) -> None:
        """A trial does not end by running."""
        search = driven(store, trials=1)
        with pytest.raises(ValueError, match="running"):
            store.record_outcome(search, 1, 0, Outcome(TrialState.RUNNING))

    def test_a_lost_worker_counts_as_an_attempt(self, store: Store) -> None:
        """Each start after the first counts up."""
        search = driven(store, trials=1)
        assert [store.record_start(search, 1, 0) for _ in range(3)] == [1, 2, 3]
        assert store.trial(search, 0).trial.attempt == 3

    def test_running_trials_of_a_lost_driver_wait_again(self, store: Store) -> None:
        """Whether its lease lapsed or it was given back; their next start is their next attempt."""
        search = driven(store, trials=3)
        store.record_outcome(search, 1, 0, SCORED)
        store.record_start(search, 1, 1)
        store.release(search, 1, reason="driver died")
        assert store.progress(search) == {"search": {"complete": 1, "pending": 2}}
        claimed(store, lease_seconds=0)
        assert store.record_start(search, 2, 1) == 2
        claimed(store)
        assert store.progress(search) == {"search": {"complete": 1, "pending": 2}}
        assert (store.record_start(search, 3, 1), store.record_start(search, 3, 2)) == (3, 1)

    def test_trials_are_paged_and_filtered(self, store: Store) -> None:
        """In order of number, whatever the order of asking; by arm, state, and both."""
        search = driven(store)
        for number, arm in [(3, "random"), (0, "base"), (2, "search"), (1, "search"), (10, "search")]:
            store.record_ask(search, 1, trial(number, arm))
        store.record_outcome(search, 1, 2, SCORED)

        def numbers(**filters: Any) -> list[int]:
            return [stored.trial.number for stored in store.trials(search, **filters)]

        assert numbers() == [0, 1, 2, 3, 10]
        assert numbers(limit=2) == [0, 1]
        assert numbers(limit=2, after=1) == [2, 3]
        assert numbers(after=10) == []
        assert numbers(arm="search") == [1, 2, 10]
        assert numbers(arm="search", state="pending", after=1) == [10]
        assert numbers(state="complete") == [2]
        assert numbers(arm="final") == []

    def test_progress_counts_by_arm_and_state(self, store: Store) -> None:
        """Only what there is; nothing before the first trial."""
        search = driven(store)
        assert store.progress(search) == {}
        for number, arm in enumerate(["base", "search", "search", "search", "uniform"]):
            store.record_ask(search, 1, trial(number, arm))
        store.record_outcome(search, 1, 0, SCORED)
        store.record_outcome(search, 1, 1, Outcome.failed("no"))
        store.record_start(search, 1, 2)
        assert store.progress(search) == {
            "base": {"complete": 1},
            "search": {"failed": 1, "running": 1, "pending": 1},
            "uniform": {"pending": 1},
        }

    # what else a driver leaves behind

    def test_a_snapshot_is_given_back_exactly(self, store: Store) -> None:
        """Numbers bit by bit, keys in their order, text as it was; the last one counts, for the next attempt too."""
        search = driven(store)
        store.save_snapshot(search, 1, {"old": True})
        state = {"z": [0.1 + 0.2, -0.0, 1e-308, 2**63, None], "a": {"b64": "AA==", "text": "\0 \udcff 木"}, "10": 1}
        store.save_snapshot(search, 1, state)
        store.release(search, 1, reason="driver died")
        for job in (store.get_search(search), claimed(store)):
            assert job.snapshot == state
            assert repr(job.snapshot) == repr(state)

    def test_artifacts_are_listed_by_name(self, store: Store) -> None:
        """A second file of the same name replaces the first."""
        search = driven(store)
        assert store.artifacts(search) == []
        weights = Artifact("model.safetensors", 5_000_000_000, "aa" * 32)
        for artifact in (weights, Artifact("best.json", 10, "bb" * 32), replace(weights, size=7, sha256="cc" * 32)):
            store.add_artifact(search, 1, artifact)
        assert store.artifacts(search) == [
            Artifact("best.json", 10, "bb" * 32),
            Artifact("model.safetensors", 7, "cc" * 32),
        ]

    # nothing is made up

    @pytest.mark.parametrize("call", CLIENT_CALLS)
    def test_an_unknown_search_is_not_found(self, store: Store, call: str) -> None:
        """The refusal names what was asked for."""
        with pytest.raises(NotFoundError, match=UNKNOWN):
            CLIENT_CALLS[call](store, UNKNOWN)

    @pytest.mark.parametrize("write", DRIVER_WRITES)
    def test_an_unknown_search_cannot_be_written(self, store: Store, write: str) -> None:
        """It is not found, which is another thing than a lost lease."""
        with pytest.raises(NotFoundError, match=UNKNOWN):
            DRIVER_WRITES[write](store, UNKNOWN, 1)

    def test_an_unknown_trial_is_not_found(self, store: Store) -> None:
        """Neither read, nor started, nor ended."""
        search = driven(store, trials=1)
        with pytest.raises(NotFoundError, match="trial 5"):
            store.trial(search, 5)
        with pytest.raises(NotFoundError, match="trial 5"):
            store.record_start(search, 1, 5)
        with pytest.raises(NotFoundError, match="trial 5"):
            store.record_outcome(search, 1, 5, SCORED)
        assert store.record_ask(search, 1, trial(1)) == store.trial(search, 0).asked_seq + 1
