"""What a store does with claims: who goes first, who has to wait, and what is kept of every attempt."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from automl_prune.errors import LateOutcomeError, StateConflictError
from automl_prune.loop.audit import Origin
from automl_prune.loop.job import SearchState, Worker
from automl_prune.loop.ports import Store
from automl_prune.testing.store_kit import SCORED, SPEC, add, claimed, driven
from automl_prune.trial import Outcome, TrialState

WORKER = Worker("launcher", "machine", 7)


def of(store: Store, key: str) -> str:
    """Queue a search that an API key orders."""
    return store.add_search(SPEC, name=None, labels={}, origin=Origin(key)).id


class AttemptContract:
    """The part of the store's contract that is about claims and attempts."""

    # who goes first

    def test_a_higher_priority_goes_first(self, store: Store) -> None:
        """Of equals the oldest; a priority may change while a search waits."""
        low, high, other, urgent = (
            store.add_search(SPEC, name=None, labels={}, priority=priority).id for priority in (-1, 1, 0, 0)
        )
        store.update_search(urgent, priority=9)
        assert store.ahead_of([low, high, other, urgent]) == {low: 3, high: 1, other: 2, urgent: 0}
        assert [claimed(store).id for _ in range(4)] == [urgent, high, other, low]
        assert store.ahead_of([low, high]) == {}
        waiting = [store.add_search(SPEC, name=None, labels={}, tenant=tenant).id for tenant in ("mine", "other")]
        assert store.ahead_of(waiting, tenant="other") == {waiting[1]: 1}

    def test_a_key_runs_no_more_than_its_limit(self, store: Store) -> None:
        """Others go on, those of no key too; what is paused, given back or ended makes room."""
        first, second, third = (of(store, "a") for _ in range(3))
        of(store, "b")
        add(store)
        limits = {"a": 2}
        taken = [store.claim(lease_seconds=60, limits=limits) for _ in range(5)]
        assert [job.key_id if job else "none left" for job in taken] == ["a", "a", "b", None, "none left"]
        assert store.get_search(third).state is SearchState.QUEUED
        store.request_pause(first)
        store.release(first, 1, reason="so")
        found = store.claim(lease_seconds=60, limits=limits)
        assert found is not None
        assert found.id == third
        store.request_resume(first)
        store.set_state(second, 1, SearchState.SUCCEEDED)
        assert store.claim(lease_seconds=60, limits=limits) is not None

    def test_limits_may_be_asked_for(self, store: Store) -> None:
        """A function of the key; 0 is none at all, None any number."""
        of(store, "a")
        free = of(store, "b")
        found = store.claim(lease_seconds=60, limits=lambda key: 0 if key == "a" else None)
        assert found is not None
        assert found.id == free
        assert store.claim(lease_seconds=60, limits=lambda key: 0) is None

    def test_threads_keep_the_limit(self, store: Store) -> None:
        """Two claims at the same moment do not both see the last free place."""
        for _ in range(8):
            of(store, "a")
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda _: store.claim(lease_seconds=60, limits={"a": 3}), range(8)))
        assert len([job for job in taken if job is not None]) == 3

    def test_a_search_taken_over_does_not_stand_in_its_own_way(self, store: Store) -> None:
        """It counted as running while its lease lasted."""
        search = of(store, "a")
        assert store.claim(lease_seconds=0, limits={"a": 1}) is not None
        again = store.claim(lease_seconds=60, limits={"a": 1})
        assert again is not None
        assert (again.id, again.attempt) == (search, 2)

    # leases that run out

    def test_a_search_whose_lease_ran_out_is_put_right_without_a_claim(self, store: Store) -> None:
        """It is queued, or becomes what it was asked to; one whose driver is well stays with it."""
        cancelled, paused, failing, again, well = (driven(store, trials=1) for _ in range(5))
        store.record_start(again, 1, 0)
        store.release(failing, 1, reason="killed", lost=True, most_losses=2)
        assert claimed(store).id == failing
        assert store.settle_lapsed(most_losses=2) == 0
        store.request_cancel(cancelled)
        store.request_pause(paused)
        for search in (cancelled, paused, failing, again):
            store.renew(search, store.get_search(search).attempt, lease_seconds=0)
        assert store.settle_lapsed(most_losses=2) == 4
        assert store.settle_lapsed(most_losses=2) == 0
        assert [store.get_search(search).state for search in (cancelled, paused, failing, again, well)] == [
            SearchState.CANCELLED,
            SearchState.PAUSED,
            SearchState.FAILED,
            SearchState.QUEUED,
            SearchState.PREPARING,
        ]
        job = store.get_search(again)
        assert (job.losses, job.owner, job.lease_expires_at) == (1, None, None)
        assert job.state_reason == "queued again: driver 1 of at most 2 was lost: its lease ran out"
        assert store.trial(again, 0).trial.state is TrialState.PENDING
        (attempt,) = store.attempts(again)
        assert (attempt.reason, attempt.lost) == ("its lease ran out", True)
        assert store.events(again)[-1].data["state"] == "queued"
        assert claimed(store).id == again

    # what is kept of attempts

    def test_every_claim_is_kept_with_its_end(self, store: Store) -> None:
        """Who had it, since when, and why no longer: given back, lost, taken over, ended."""
        search = add(store)
        assert store.attempts(search) == []
        assert store.claim(lease_seconds=60, worker=WORKER) is not None
        (attempt,) = store.attempts(search)
        assert (attempt.number, attempt.ended_at, attempt.reason, attempt.worker) == (1, None, None, WORKER)
        store.release(search, 1, reason="the service was stopped")
        claimed(store)
        store.release(search, 2, reason="ended by signal 9", lost=True)
        claimed(store, lease_seconds=0)
        claimed(store)
        store.set_state(search, 4, SearchState.SUCCEEDED, reason="finished")
        kept = store.attempts(search)
        assert [(a.number, a.reason, a.lost) for a in kept] == [
            (1, "the service was stopped", False),
            (2, "ended by signal 9", True),
            (3, "its lease ran out", True),
            (4, "succeeded: finished", False),
        ]
        assert all(a.ended_at is not None and a.ended_at >= a.started_at for a in kept)

    def test_a_search_names_who_drives_it(self, store: Store) -> None:
        """First who claimed it, then who renews; nobody once it is given back or ended."""
        search = add(store)
        job = store.claim(lease_seconds=60, worker=WORKER)
        assert job is not None
        assert (job.owner, job.host) == ("launcher", "machine")
        driver = Worker("driver", "elsewhere", 8)
        job = store.renew(search, 1, lease_seconds=60, worker=driver)
        assert (job.owner, job.host) == ("driver", "elsewhere")
        assert store.renew(search, 1, lease_seconds=60).owner == "driver"
        assert store.attempts(search)[0].worker == driver
        job = store.release(search, 1, reason="so")
        assert (job.owner, job.host) == (None, None)
        assert claimed(store).owner is None

    def test_lost_drivers_are_counted_however_they_were_lost(self, store: Store) -> None:
        """Given back as lost, or with a lease that ran out; a search that was given back in peace lost none."""
        search = add(store)
        claimed(store)
        store.release(search, 1, reason="stopped")
        assert store.get_search(search).losses == 0
        claimed(store)
        job = store.release(search, 2, reason="ended by signal 9", lost=True, most_losses=3)
        assert job.state_reason == "queued again: driver 1 of at most 3 was lost: ended by signal 9"
        claimed(store, lease_seconds=0)
        assert claimed(store).losses == 2

    def test_drivers_lost_before_an_outcome_count_no_more(self, store: Store) -> None:
        """A long search may lose any number of them, as long as it gets on in between; attempts remember."""
        search = driven(store, trials=4)
        for attempt in range(1, 5):
            assert store.release(search, attempt, reason="killed", lost=True, most_losses=2).losses == 1
            assert claimed(store).attempt == attempt + 1
            outcome = SCORED if attempt % 2 else Outcome.failed("no")
            store.record_outcome(search, attempt + 1, attempt - 1, outcome)
            assert store.get_search(search).losses == 0
        store.release(search, 5, reason="killed", lost=True, most_losses=2)
        claimed(store)
        assert store.release(search, 6, reason="killed", lost=True, most_losses=2).state is SearchState.FAILED
        assert [attempt.lost for attempt in store.attempts(search)] == [True] * 6

    def test_a_search_that_lost_too_many_drivers_fails(self, store: Store) -> None:
        """With the reason, be the last one given back or its lease run out."""
        for lapsed in (True, False):
            search = add(store)
            for attempt in (1, 2):
                job = store.claim(lease_seconds=0 if lapsed else 60, most_losses=2)
                assert job is not None
                assert (job.id, job.attempt) == (search, attempt)
                if not lapsed:
                    store.release(search, attempt, reason="killed", lost=True, most_losses=2)
            assert store.claim(lease_seconds=60, most_losses=2) is None
            job = store.get_search(search)
            how = "its lease ran out" if lapsed else "killed"
            assert (job.state, job.losses) == (SearchState.FAILED, 2)
            assert job.state_reason == f"driver 2 of at most 2 was lost: {how}"

    # what is kept of a trial's attempts

    def test_an_outcome_of_an_earlier_attempt_is_refused(self, store: Store) -> None:
        """A worker that was given up may still answer; the trial stays open for the next one."""
        search = driven(store, trials=1)
        assert [store.record_start(search, 1, 0) for _ in range(2)] == [1, 2]
        before = store.trial(search, 0)
        with pytest.raises(LateOutcomeError, match="attempt 2"):
            store.record_outcome(search, 1, 0, Outcome.failed("late"), trial_attempt=1)
        assert store.trial(search, 0) == before
        store.record_outcome(search, 1, 0, SCORED, trial_attempt=2)
        assert store.trial(search, 0).trial.state is TrialState.COMPLETE
        for attempt in (1, 2, None):
            with pytest.raises(StateConflictError, match="Trial 0"):
                store.record_outcome(search, 1, 0, Outcome.failed("late"), trial_attempt=attempt)
        assert store.trial(search, 0).trial.metrics == SCORED.metrics
