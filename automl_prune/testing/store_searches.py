"""What a store does with searches: ordering, listing, claiming, moving on, cancelling."""

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from automl_prune.errors import LeaseLostError, StateConflictError
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.testing.store_kit import DRIVER_WRITES, SCORED, SPEC, add, claimed, driven
from automl_prune.trial import Outcome, TrialState


class SearchContract:
    """The part of the store's contract that is about searches."""

    # a search is ordered

    def test_a_queued_search_is_what_was_ordered(self, store: Store) -> None:
        """What comes back is what was sent, queued, with a time."""
        before = datetime.now(UTC) - timedelta(seconds=5)  # the database's clock may differ a little
        job = store.add_search(SPEC, name="half", labels={"team": "edge", "stage": "try"})
        assert (job.spec, job.name, job.labels) == (SPEC, "half", {"team": "edge", "stage": "try"})
        assert (job.state, job.attempt, job.cancel_requested) == (SearchState.QUEUED, 0, False)
        assert (job.info, job.result, job.snapshot, job.lease_expires_at) == ({}, None, None, None)
        assert job.created_at.utcoffset() == timedelta(0)
        assert job.created_at >= before
        assert store.get_search(job.id) == job

    def test_ids_sort_by_creation(self, store: Store) -> None:
        """``srch_`` and 26 characters, ascending."""
        ids = [add(store) for _ in range(20)]
        assert ids == sorted(set(ids))
        assert all(i.startswith("srch_") and len(i) == 31 for i in ids)

    def test_what_was_handed_in_is_copied(self, store: Store) -> None:
        """Changing a spec after ordering does not change the order."""
        spec: dict[str, Any] = {"strategy": {"name": "abc"}, "controls": ["uniform"]}
        search = add(store, spec)
        spec["controls"].append("random")
        assert store.get_search(search).spec["controls"] == ["uniform"]

    def test_text_of_any_kind_is_kept(self, store: Store) -> None:
        """Names, labels and reasons may hold what file names and tracebacks hold."""
        job = store.add_search(SPEC, name="a\0b\udcffc — 木", labels={"k\0": "v\udcff"})
        assert job.name is not None
        assert job.name.endswith("c — 木")
        assert [found.id for found in store.list_searches(label=("k\0", "v\udcff"))] == [job.id]
        store.release(job.id, claimed(store).attempt, reason="killed\0 by \udcff")
        assert (store.get_search(job.id).state_reason or "").startswith("killed")

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_a_number_that_json_has_not_is_refused(self, store: Store, number: float) -> None:
        """NaN and infinity never reach what is kept."""
        search = driven(store, trials=1)
        with pytest.raises(ValueError, match="top1"):
            store.record_outcome(search, 1, 0, Outcome(TrialState.COMPLETE, {"top1": number}))
        with pytest.raises(ValueError, match="seconds"):
            store.record_outcome(search, 1, 0, Outcome(TrialState.COMPLETE, cost={"seconds": number}))
        with pytest.raises(ValueError, match="JSON"):
            store.record_outcome(search, 1, 0, Outcome(TrialState.COMPLETE, details={"deep": [number]}))
        with pytest.raises(ValueError, match="JSON"):
            store.save_snapshot(search, 1, {"state": number})
        with pytest.raises(ValueError, match="JSON"):
            store.add_search({"seed": number}, name=None, labels={})
        assert store.trial(search, 0).trial.state is TrialState.PENDING

    # searches are listed

    def test_a_listing_is_paged_newest_first(self, store: Store) -> None:
        """Each page starts after the last id of the one before."""
        ids = [add(store) for _ in range(5)]
        first = store.list_searches(limit=2)
        second = store.list_searches(limit=2, before=first[-1].id)
        third = store.list_searches(limit=2, before=second[-1].id)
        assert [job.id for job in (*first, *second, *third)] == ids[::-1]
        assert store.list_searches(before=ids[0]) == []

    def test_a_listing_is_filtered(self, store: Store) -> None:
        """By states, by the strategy's name, by a label, and by all of them."""
        a = add(store, SPEC, team="edge", stage="try")
        b = add(store, {"strategy": {"name": "random"}}, team="edge")
        c = add(store, SPEC, team="cloud")
        store.request_cancel(c)

        def found(**filters: Any) -> list[str]:
            return [job.id for job in store.list_searches(**filters)]

        assert found(states=[SearchState.QUEUED]) == [b, a]
        assert found(states=[SearchState.CANCELLED, SearchState.QUEUED]) == [c, b, a]
        assert found(strategy="abc") == [c, a]
        assert found(label=("team", "edge")) == [b, a]
        assert found(label=("edge", "team")) == []
        assert found(label=("team", "edge"), strategy="abc", states=[SearchState.QUEUED], before=c) == [a]
        assert found(label=("team", "edge"), before=b, limit=1) == [a]
        assert store.list_searches(label=("stage", "try"))[0].labels == {"team": "edge", "stage": "try"}

    def test_a_listing_leaves_snapshots_and_results_out(self, store: Store) -> None:
        """They may be large, and come with one search, not with a page of them; whether there is a result is told."""
        search = driven(store)
        store.save_snapshot(search, 1, {"strategies": {}})
        before = store.list_searches()[0]
        store.set_state(search, 1, SearchState.FINISHING, result={"trial": 3})
        assert (before.snapshot, before.result, before.has_result) == (None, None, False)
        for job in (store.list_searches()[0], store.renew(search, 1, lease_seconds=60)):
            assert (job.snapshot, job.result, job.has_result) == (None, None, True)
        whole = store.get_search(search)
        assert (whole.snapshot, whole.result, whole.has_result) == ({"strategies": {}}, {"trial": 3}, True)

    # a search is claimed

    def test_the_oldest_search_is_claimed_first(self, store: Store) -> None:
        """Queued searches are taken in order, each once, as attempt 1."""
        ids = [add(store) for _ in range(3)]
        jobs = [claimed(store) for _ in ids]
        assert [job.id for job in jobs] == ids
        assert {(job.state, job.attempt) for job in jobs} == {(SearchState.PREPARING, 1)}
        assert all(job.lease_expires_at is not None and job.started_at is not None for job in jobs)
        assert store.get_search(ids[0]) == jobs[0]
        assert store.claim(lease_seconds=60) is None

    def test_a_lease_lasts_as_long_as_asked(self, store: Store) -> None:
        """From the claim on, and again from each renewal."""
        add(store)
        job = claimed(store, lease_seconds=100)
        renewed = store.renew(job.id, 1, lease_seconds=1000)
        assert job.lease_expires_at is not None
        assert renewed.lease_expires_at is not None
        assert job.lease_expires_at - job.updated_at == pytest.approx(timedelta(seconds=100), abs=timedelta(seconds=1))
        gained = renewed.lease_expires_at - job.lease_expires_at
        assert timedelta(seconds=899) < gained < timedelta(seconds=960)

    @pytest.mark.parametrize("state", [SearchState.PREPARING, SearchState.RUNNING, SearchState.FINISHING])
    def test_a_lapsed_lease_is_taken_over(self, store: Store, state: SearchState) -> None:
        """The next attempt starts over from preparing and says why; the first start is remembered."""
        search = add(store)
        first = claimed(store, lease_seconds=0)
        store.set_state(search, 1, state, info={"base": {"top1": 0.9}})
        second = claimed(store)
        assert (second.id, second.attempt, second.state) == (search, 2, SearchState.PREPARING)
        assert "attempt 1" in (second.state_reason or "")
        assert (second.started_at, second.info) == (first.started_at, {"base": {"top1": 0.9}})
        assert store.claim(lease_seconds=60) is None

    def test_an_older_search_whose_lease_lapsed_goes_first(self, store: Store) -> None:
        """One queue for what waits and what was dropped."""
        old = add(store)
        claimed(store, lease_seconds=0)
        young = add(store)
        assert [claimed(store).id, claimed(store).id] == [old, young]

    def test_a_renewed_lease_is_not_taken_over(self, store: Store) -> None:
        """Also when it had lapsed, as long as nobody took the search."""
        search = add(store)
        claimed(store, lease_seconds=0)
        store.renew(search, 1, lease_seconds=60)
        assert store.claim(lease_seconds=60) is None

    def test_threads_claim_each_search_once(self, store: Store) -> None:
        """Nobody claims what another claimed; nothing is left."""
        ids = [add(store) for _ in range(12)]

        def claim_all(_: int) -> list[str]:
            mine = []
            while (job := store.claim(lease_seconds=60)) is not None:
                mine.append(job.id)
            return mine

        with ThreadPoolExecutor(4) as pool:
            taken = [search for mine in pool.map(claim_all, range(4)) for search in mine]
        assert sorted(taken) == ids

    @pytest.mark.parametrize("write", DRIVER_WRITES)
    def test_a_driver_whose_time_is_over_changes_nothing(self, store: Store, write: str) -> None:
        """Every write of a replaced attempt, of one that never was, and of one given back is refused."""
        search = driven(store, trials=1)
        store.renew(search, 1, lease_seconds=0)
        assert claimed(store).attempt == 2
        self._refused(store, write, search, attempts=(1, 3))
        store.release(search, 2, reason="driver died")
        self._refused(store, write, search, attempts=(1, 2, 3))
        store.request_cancel(search)
        self._refused(store, write, search, attempts=(1, 2, 3))

    def _refused(self, store: Store, write: str, search: str, attempts: tuple[int, ...]) -> None:
        def everything() -> tuple[object, ...]:
            return store.get_search(search), store.trials(search), store.artifacts(search)

        before = everything()
        for attempt in attempts:
            with pytest.raises(LeaseLostError, match=search):
                DRIVER_WRITES[write](store, search, attempt)
        assert everything() == before

    def test_a_released_search_waits_again(self, store: Store) -> None:
        """It is queued with the reason, and the next claim is the next attempt; what was, its attempts tell."""
        search = driven(store)
        store.release(search, 1, reason="driver exited with code 137")
        job = store.get_search(search)
        assert (job.state, job.attempt, job.lease_expires_at) == (SearchState.QUEUED, 1, None)
        assert job.state_reason == "driver exited with code 137"
        again = claimed(store)
        assert (again.id, again.attempt, again.state_reason) == (search, 2, "starting a driver")
        assert store.attempts(search)[0].reason == "driver exited with code 137"

    # a search moves on

    def test_states_reasons_and_info(self, store: Store) -> None:
        """The reason belongs to the state; top-level keys of the info are merged; the result stays until replaced."""
        search = driven(store)
        store.set_state(search, 1, SearchState.RUNNING, reason="space traced", info={"a": {"x": 1}, "b": 1})
        job = store.get_search(search)
        assert (job.state, job.state_reason, job.info) == (SearchState.RUNNING, "space traced", {"a": {"x": 1}, "b": 1})
        store.set_state(search, 1, SearchState.RUNNING, info={"a": {"y": 2}}, result={"trial": 3})
        store.set_state(search, 1, SearchState.FINISHING)
        job = store.get_search(search)
        assert (job.state, job.state_reason) == (SearchState.FINISHING, None)
        assert (job.info, job.result) == ({"a": {"y": 2}, "b": 1}, {"trial": 3})

    @pytest.mark.parametrize("state", [SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED])
    def test_a_terminal_state_ends_the_search(self, store: Store, state: SearchState) -> None:
        """No lease, no claim, a time, and no trial that still looks alive; what was told stays."""
        search = driven(store, trials=3)
        store.record_outcome(search, 1, 0, SCORED)
        store.record_start(search, 1, 1)
        store.renew(search, 1, lease_seconds=0)
        store.set_state(search, 1, state, reason="so it ended", result={"trial": 0})
        job = store.get_search(search)
        assert (job.state, job.state_reason, job.result) == (state, "so it ended", {"trial": 0})
        assert (job.lease_expires_at, job.finished_at is None) == (None, False)
        assert store.claim(lease_seconds=60) is None
        assert store.progress(search) == {"search": {"complete": 1, "cancelled": 2}}
        left = store.trial(search, 1)
        assert left.trial.outcome is not None
        assert left.trial.outcome.reason
        assert (left.told_seq, left.ended_at is None) == (None, False)

    def test_a_driver_cannot_queue_by_set_state(self, store: Store) -> None:
        """Only release does that, for it also ends the lease."""
        search = driven(store)
        with pytest.raises(ValueError, match="release"):
            store.set_state(search, 1, SearchState.QUEUED)

    # a search is cancelled

    def test_a_queued_search_is_cancelled_at_once(self, store: Store) -> None:
        """It ends there and then, and nobody claims it."""
        search = add(store)
        job = store.request_cancel(search)
        assert (job.state, job.cancel_requested, job.finished_at is None) == (SearchState.CANCELLED, True, False)
        assert store.get_search(search) == job
        assert store.claim(lease_seconds=60) is None

    def test_a_claimed_search_is_asked_to_stop(self, store: Store) -> None:
        """Its driver reads so when it renews, and ends the search; asking twice is asking once."""
        search = driven(store)
        assert store.request_cancel(search).state is SearchState.PREPARING
        assert store.request_cancel(search).cancel_requested
        assert store.renew(search, 1, lease_seconds=60).cancel_requested
        store.set_state(search, 1, SearchState.CANCELLED)
        assert store.get_search(search).state is SearchState.CANCELLED

    def test_a_search_that_ended_cannot_be_cancelled(self, store: Store) -> None:
        """The refusal says how it ended."""
        search = driven(store)
        store.set_state(search, 1, SearchState.SUCCEEDED)
        with pytest.raises(StateConflictError, match="succeeded"):
            store.request_cancel(search)
        assert not store.get_search(search).cancel_requested

    def test_a_cancelled_search_without_driver_is_not_claimed_again(self, store: Store) -> None:
        """When its lease lapsed it ends at the next claim, which goes on to the next search."""
        search = driven(store, trials=1)
        waiting = add(store)
        store.record_start(search, 1, 0)
        store.renew(search, 1, lease_seconds=0)
        store.request_cancel(search)
        assert claimed(store).id == waiting
        job = store.get_search(search)
        assert (job.state, job.attempt, job.lease_expires_at) == (SearchState.CANCELLED, 1, None)
        assert store.progress(search) == {"search": {"cancelled": 1}}

    def test_a_cancelled_search_is_not_queued_again(self, store: Store) -> None:
        """When it is given back it ends."""
        search = driven(store)
        store.request_cancel(search)
        store.release(search, 1, reason="driver died")
        job = store.get_search(search)
        assert (job.state, job.state_reason, job.finished_at is None) == (SearchState.CANCELLED, "driver died", False)
