"""What a store does for clients: whose a search is, ordering it once, changing it, pausing it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from automl_prune.errors import IdempotencyError, NotFoundError, PreconditionError, QueueFullError, StateConflictError
from automl_prune.loop.audit import Origin
from automl_prune.loop.job import SearchState, Submission
from automl_prune.loop.ports import Idempotency, QueueLimits, Store
from automl_prune.testing.store_kit import (
    CLIENT_CALLS,
    SCORED,
    SPEC,
    UNKNOWN,
    add,
    claimed,
    driven,
)
from automl_prune.trial import TrialState


def once(store: Store, key: str, fingerprint: str = "f", **more: Any) -> Submission:
    """Order with an idempotency key."""
    return store.add_search_once(SPEC, name=None, labels={}, idempotency=Idempotency(key, fingerprint), **more)


class OrderContract:
    """The part of the store's contract that is about those who order."""

    # a search belongs to a tenant

    def test_a_search_is_its_tenants(self, store: Store) -> None:
        """The default one's unless another is named."""
        assert store.get_search(add(store)).tenant == "default"
        mine = store.add_search(SPEC, name=None, labels={}, tenant="mine")
        assert (mine.tenant, store.get_search(mine.id, tenant="mine")) == ("mine", mine)

    @pytest.mark.parametrize("call", CLIENT_CALLS)
    def test_another_tenants_search_is_not_found(self, store: Store, call: str) -> None:
        """Whatever is asked about it; the refusal is that of a search that does not exist."""
        search = driven(store, trials=1)
        before = store.get_search(search)
        with pytest.raises(NotFoundError, match=search) as foreign:
            CLIENT_CALLS[call](store, search, tenant="other")
        with pytest.raises(NotFoundError) as unknown:
            CLIENT_CALLS[call](store, UNKNOWN, tenant="other")
        assert str(foreign.value).replace(search, UNKNOWN) == str(unknown.value)
        assert store.get_search(search) == before

    def test_a_tenant_lists_its_own(self, store: Store) -> None:
        """With every filter, and when counting."""
        mine = [store.add_search(SPEC, name=None, labels={"a": "b"}, tenant="mine").id for _ in range(2)]
        add(store, a="b")
        for filters in ({}, {"states": [SearchState.QUEUED]}, {"strategy": "abc"}, {"label": ("a", "b")}):
            assert [job.id for job in store.list_searches(tenant="mine", **filters)] == mine[::-1]
        assert [job.id for job in store.list_searches(tenant="mine", before=mine[1])] == mine[:1]
        assert (store.count_searches(), store.count_searches(tenant="mine")) == (3, 2)
        store.request_cancel(mine[0])
        assert store.count_searches(tenant="mine", states=[SearchState.QUEUED, SearchState.RUNNING]) == 1

    def test_progress_of_several_searches_is_counted_at_once(self, store: Store) -> None:
        """As of each; a search of another tenant, or none, is left out."""
        mine, other = driven(store, trials=2), driven(store)
        foreign = store.add_search(SPEC, name=None, labels={}, tenant="other").id
        asked = [mine, other, foreign, UNKNOWN]
        assert store.progress_of(asked, tenant="default") == {mine: store.progress(mine), other: {}}
        assert set(store.progress_of(asked)) == {mine, other, foreign}
        assert store.progress_of([]) == {}

    # an order is placed once

    def test_the_same_order_again_is_the_same_search(self, store: Store) -> None:
        """As it is by then; another key is another search."""
        first = once(store, "k")
        assert not first.replayed
        claimed(store)
        again = once(store, "k")
        assert (again.replayed, again.job) == (True, store.get_search(first.job.id))
        assert not once(store, "other").replayed
        assert store.count_searches() == 2

    def test_an_order_that_came_before_is_found_without_ordering(self, store: Store) -> None:
        """As it is by then; a key that is new orders nothing."""
        assert store.ordered_before(Idempotency("k", "f")) is None
        assert store.count_searches() == 0
        search = once(store, "k").job.id
        claimed(store)
        assert store.ordered_before(Idempotency("k", "f")) == store.get_search(search)
        assert store.ordered_before(Idempotency("other", "f")) is None

    def test_a_key_is_of_one_order(self, store: Store) -> None:
        """Another fingerprint with it is refused, and orders nothing."""
        once(store, "k")
        with pytest.raises(IdempotencyError, match="'k'"):
            once(store, "k", "g")
        with pytest.raises(IdempotencyError, match="'k'"):
            store.ordered_before(Idempotency("k", "g"))
        assert store.count_searches() == 1

    def test_a_key_is_of_one_tenant(self, store: Store) -> None:
        """Two tenants may use the same one."""
        assert not once(store, "k").replayed
        assert store.ordered_before(Idempotency("k", "g"), tenant="other") is None
        assert not once(store, "k", "g", tenant="other").replayed

    def test_the_same_order_at_the_same_moment_is_one_search(self, store: Store) -> None:
        """All answers name it, and one says that it is new."""
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: once(store, "k"), range(8)))
        assert len({answer.job.id for answer in answers}) == 1
        assert [answer.replayed for answer in answers].count(False) == 1
        assert store.count_searches() == 1

    # so many searches may wait

    def test_only_so_many_of_a_tenants_searches_wait(self, store: Store) -> None:
        """Those of others do not count, nor those that run or have ended; one that is paused does, as it may be resumed."""
        queue = QueueLimits(of_tenant=2)
        store.add_search(SPEC, name=None, labels={}, tenant="other")
        ids = [store.add_search(SPEC, name=None, labels={}, tenant="mine", queue=queue).id for _ in range(2)]
        with pytest.raises(QueueFullError, match="the limit is 2"):
            store.add_search(SPEC, name=None, labels={}, tenant="mine", queue=queue)
        store.request_pause(ids[0])
        with pytest.raises(QueueFullError, match="the limit is 2"):
            store.add_search(SPEC, name=None, labels={}, tenant="mine", queue=queue)
        assert store.request_resume(ids[0]).state is SearchState.QUEUED
        store.request_cancel(ids[1])
        store.add_search(SPEC, name=None, labels={}, tenant="mine", queue=queue)
        assert all(store.claim(lease_seconds=60) for _ in range(2))  # the other's, and one of mine
        store.add_search(SPEC, name=None, labels={}, tenant="mine", queue=queue)
        with pytest.raises(QueueFullError):
            once(store, "k", tenant="mine", queue=queue)
        assert store.count_searches(tenant="mine") == 4

    def test_only_so_many_of_a_keys_searches_wait(self, store: Store) -> None:
        """Whatever other keys ordered; the key is kept with its search."""
        queue, first = QueueLimits(of_key=1, of_tenant=9), Origin("key_1")
        mine = store.add_search(SPEC, name=None, labels={}, queue=queue, origin=first)
        assert (mine.key_id, store.get_search(mine.id).key_id, store.get_search(add(store)).key_id) == (
            "key_1",
            "key_1",
            None,
        )
        assert store.add_search(SPEC, name=None, labels={}, queue=queue, origin=Origin("key_2")).key_id == "key_2"
        assert (store.count_searches(key_id="key_1"), store.count_searches(key_id="key_1", tenant="other")) == (1, 0)
        for order in (store.add_search, partial(store.add_search_once, idempotency=Idempotency("k", "f"))):
            with pytest.raises(QueueFullError, match="the limit is 1"):
                order(SPEC, name=None, labels={}, queue=queue, origin=first)

    def test_what_was_ordered_before_is_answered_though_the_queue_is_full(self, store: Store) -> None:
        """The key of an order that was refused stays free."""
        queue = QueueLimits(of_tenant=1)
        first = once(store, "k", queue=queue).job
        assert once(store, "k", queue=queue) == Submission(first, replayed=True)
        with pytest.raises(QueueFullError):
            once(store, "l", "other", queue=queue)
        store.request_cancel(first.id)
        assert not once(store, "l", queue=queue).replayed

    def test_threads_keep_the_length_of_the_queue(self, store: Store) -> None:
        """Of orders at the same moment no two see the last free place."""

        def order(number: int) -> bool:
            told: dict[str, Any] = {"queue": QueueLimits(2, 3), "origin": Origin(f"key_{number % 2}")}
            try:
                if number % 3:
                    store.add_search(SPEC, name=None, labels={}, **told)
                else:
                    once(store, f"k{number}", **told)
            except QueueFullError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(order, range(16)))
        assert taken.count(True) == store.count_searches() == 3

    # a search is changed

    def test_a_search_is_changed(self, store: Store) -> None:
        """What is given, and nothing else; labels are replaced, an empty name is none."""
        search = store.add_search(SPEC, name="half", labels={"a": "1", "b": "2"}).id
        job = store.update_search(search, labels={"b": "3"})
        assert (job.name, job.labels, job.priority, job.version) == ("half", {"b": "3"}, 0, 2)
        job = store.update_search(search, name="whole", priority=5)
        assert (job.name, job.labels, job.priority, job.version) == ("whole", {"b": "3"}, 5, 3)
        assert store.update_search(search, name="").name is None
        assert [found.id for found in store.list_searches(label=("b", "3"))] == [search]
        assert store.list_searches(label=("a", "1")) == []

    def test_a_change_may_expect_a_version(self, store: Store) -> None:
        """A search that was changed since is left as it is."""
        search = add(store)
        version = store.get_search(search).version
        assert store.update_search(search, name="first", expected_version=version).version == version + 1
        with pytest.raises(PreconditionError, match=f"version {version + 1}"):
            store.update_search(search, name="second", expected_version=version)
        assert store.get_search(search).name == "first"

    def test_a_request_may_expect_a_version(self, store: Store) -> None:
        """Whatever the search's state is by now, it is the version that is told."""
        search = add(store)
        for request in (store.request_pause, store.request_resume, store.request_cancel):
            before = store.get_search(search)
            with pytest.raises(PreconditionError, match=f"version {before.version}"):
                request(search, expected_version=before.version - 1)
            assert store.get_search(search) == before
            assert request(search, expected_version=before.version).version > before.version
        with pytest.raises(PreconditionError):
            store.request_cancel(search, expected_version=1)

    def test_a_version_counts_what_happens_to_the_search_itself(self, store: Store) -> None:
        """Not its trials, snapshots and leases."""
        search = driven(store, trials=2)
        version = store.get_search(search).version
        store.record_start(search, 1, 0)
        store.record_outcome(search, 1, 0, SCORED)
        store.save_snapshot(search, 1, {})
        store.renew(search, 1, lease_seconds=60)
        assert store.get_search(search).version == version
        store.set_state(search, 1, SearchState.RUNNING, info={"a": 1})
        store.request_pause(search)
        store.release(search, 1, reason="so")
        store.request_resume(search)
        claimed(store)
        store.request_cancel(search)
        assert store.get_search(search).version == version + 6

    def test_what_ended_keeps_its_priority(self, store: Store) -> None:
        """Its labels and name may still change."""
        search = add(store)
        store.request_cancel(search)
        assert store.update_search(search, name="old", labels={"a": "b"}).name == "old"
        with pytest.raises(StateConflictError, match="cancelled"):
            store.update_search(search, priority=1)

    # a search is paused

    def test_a_queued_search_is_paused_at_once(self, store: Store) -> None:
        """Nobody claims it before it is resumed."""
        search = add(store)
        job = store.request_pause(search)
        assert (job.state, job.pause_requested, job.state_reason) == (SearchState.PAUSED, False, "paused by request")
        assert store.request_pause(search) == job
        assert store.claim(lease_seconds=60) is None
        assert store.request_resume(search).state is SearchState.QUEUED
        assert claimed(store).id == search

    def test_a_driven_search_is_asked_to_be_given_back(self, store: Store) -> None:
        """Its driver reads so when it renews; given back it rests, and its trials wait."""
        search = driven(store, trials=2)
        store.set_state(search, 1, SearchState.RUNNING)
        store.record_start(search, 1, 0)
        job = store.request_pause(search)
        assert (job.state, job.pause_requested) == (SearchState.RUNNING, True)
        assert store.request_pause(search).version == job.version
        assert store.renew(search, 1, lease_seconds=60).pause_requested
        job = store.release(search, 1, reason="its trials are back")
        assert (job.state, job.pause_requested, job.lease_expires_at) == (SearchState.PAUSED, False, None)
        assert store.claim(lease_seconds=60) is None
        assert {t.trial.state for t in store.trials(search)} == {TrialState.PENDING}
        assert store.request_resume(search).state_reason == "resumed by request"
        assert (claimed(store).attempt, store.get_search(search).losses) == (2, 0)

    def test_a_request_to_pause_is_taken_back(self, store: Store) -> None:
        """The driver just goes on."""
        search = driven(store)
        store.request_pause(search)
        job = store.request_resume(search)
        assert (job.state, job.pause_requested) == (SearchState.PREPARING, False)

    def test_a_search_to_be_paused_whose_lease_ran_out_is_paused(self, store: Store) -> None:
        """At the next claim, which goes on to the next search."""
        search, waiting = driven(store), add(store)
        store.renew(search, 1, lease_seconds=0)
        store.request_pause(search)
        assert claimed(store).id == waiting
        job = store.get_search(search)
        assert (job.state, job.losses) == (SearchState.PAUSED, 1)

    def test_a_paused_search_is_cancelled_at_once(self, store: Store) -> None:
        """There is no driver to wait for."""
        search = add(store)
        store.request_pause(search)
        assert store.request_cancel(search).state is SearchState.CANCELLED

    def test_a_driver_cannot_pause_by_set_state(self, store: Store) -> None:
        """Only release does that, for it also ends the lease."""
        search = driven(store)
        with pytest.raises(ValueError, match="release"):
            store.set_state(search, 1, SearchState.PAUSED)

    def test_pausing_and_resuming_have_their_states(self, store: Store) -> None:
        """Refusals say which state it is."""
        search = add(store)
        with pytest.raises(StateConflictError, match="queued"):
            store.request_resume(search)
        driving = claimed(store)
        with pytest.raises(StateConflictError, match="preparing"):
            store.request_resume(search)
        store.request_cancel(search)
        with pytest.raises(StateConflictError, match="cancelled"):
            store.request_pause(search)
        store.release(search, driving.attempt, reason="so")
        for request in (store.request_pause, store.request_resume):
            with pytest.raises(StateConflictError, match="cancelled"):
                request(search)
