"""What a store tells those who watch, and which trials it holds for the best."""

from typing import Any

import pytest

from automl_prune.errors import LeaseLostError, StateConflictError
from automl_prune.loop.job import Best, EventKind, SearchState
from automl_prune.loop.ports import Store
from automl_prune.testing.store_kit import SCORED, SPEC, add, claimed, driven, trial
from automl_prune.trial import Outcome, TrialState


def told(store: Store, search: str, after: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Kinds and data of a search's events."""
    return [(event.kind.value, dict(event.data)) for event in store.events(search, after=after)]


def kinds(store: Store, search: str) -> list[str]:
    """Kinds of a search's events."""
    return [kind for kind, _ in told(store, search)]


def scored(value: float, **metrics: float) -> Outcome:
    """A complete trial."""
    return Outcome(TrialState.COMPLETE, {"top1": value, **metrics})


class EventContract:
    """The part of the store's contract that is about events and the best trials."""

    def test_a_search_is_told_from_beginning_to_end(self, store: Store) -> None:
        """Each change with what became of it; nothing follows the end."""
        search = driven(store, trials=1)
        store.set_state(search, 1, SearchState.RUNNING, reason="evaluating")
        store.record_start(search, 1, 0)
        store.record_outcome(search, 1, 0, scored(0.5))
        store.set_state(search, 1, SearchState.SUCCEEDED, reason="finished")
        state = {"reason": None, "attempt": 1, "cancel_requested": False, "pause_requested": False}
        number = {"number": 0, "arm": "search", "attempt": 1}
        assert told(store, search) == [
            ("search.state", {**state, "state": "queued", "attempt": 0}),
            ("search.state", {**state, "state": "preparing", "reason": "starting a driver"}),
            ("search.state", {**state, "state": "running", "reason": "evaluating"}),
            ("trial.started", number),
            ("trial.completed", {**number, "state": "complete", "metrics": {"top1": 0.5}, "reason": None}),
            ("best.updated", {"number": 0, "metrics": {"top1": 0.5}}),
            ("search.state", {**state, "state": "succeeded", "reason": "finished"}),
            ("end", {"state": "succeeded", "reason": "finished"}),
        ]

    def test_requests_are_told(self, store: Store) -> None:
        """To pause, to resume, to cancel, of a driven search and of one that waits."""
        search = driven(store)
        store.request_pause(search)
        store.release(search, 1, reason="so")
        store.request_resume(search)
        store.request_cancel(search)
        states = [(d["state"], d["pause_requested"], d["cancel_requested"]) for _, d in told(store, search)[2:-1]]
        assert states == [
            ("preparing", True, False),
            ("paused", False, False),
            ("queued", False, False),
            ("cancelled", False, True),
        ]
        assert kinds(store, search)[-1] == "end"

    def test_what_was_refused_is_not_told(self, store: Store) -> None:
        """Events are written with what they tell of, or not at all."""
        search = driven(store, trials=1)
        before = kinds(store, search)
        with pytest.raises(LeaseLostError):
            store.record_outcome(search, 2, 0, SCORED)
        with pytest.raises(StateConflictError):
            store.record_ask(search, 1, trial(0))
        with pytest.raises(StateConflictError):
            store.request_resume(search)
        assert kinds(store, search) == before

    def test_saying_the_same_again_is_no_news(self, store: Store) -> None:
        """Neither is a renewed lease, nor more info."""
        search = driven(store)
        store.set_state(search, 1, SearchState.RUNNING, reason="so")
        before = kinds(store, search)
        store.set_state(search, 1, SearchState.RUNNING, reason="so", info={"a": 1})
        store.renew(search, 1, lease_seconds=60)
        assert kinds(store, search) == before

    def test_events_are_read_on_from_the_last_one(self, store: Store) -> None:
        """Of a search in rising order, a page at a time."""
        search = driven(store, trials=5)
        for number in range(5):
            store.record_start(search, 1, number)
        every = store.events(search)
        assert [event.id for event in every] == sorted({event.id for event in every})
        assert all((event.search_id, event.tenant) == (search, "default") for event in every)
        assert all(event.created_at.utcoffset() is not None for event in every)
        pages, after = [], 0
        while page := store.events(search, after=after, limit=3):
            pages += page
            after = page[-1].id
        assert pages == every
        assert store.events(search, after=every[-1].id) == []

    def test_events_are_read_by_tenant(self, store: Store) -> None:
        """Of all its searches, and of nobody else's; without a tenant, of all."""
        mine = [store.add_search(SPEC, name=None, labels={}, tenant="mine").id for _ in range(2)]
        other = add(store)
        for _ in range(3):
            claimed(store)
        assert [event.search_id for event in store.events(tenant="mine")] == [*mine, *mine]
        assert [event.search_id for event in store.events()] == [*mine, other, *mine, other]
        first = store.events(tenant="mine", limit=1)[0]
        assert [event.search_id for event in store.events(tenant="mine", after=first.id)] == [mine[1], *mine]

    # the best trials

    def test_the_best_trial_of_each_arm_is_known(self, store: Store) -> None:
        """Of equals the first asked, in whatever order they come; what failed does not count."""
        search = driven(store)
        for number, arm in enumerate(["base", "search", "search", "search", "search", "uniform"]):
            store.record_ask(search, 1, trial(number, arm))
        assert store.get_search(search).best == {}
        for number, value in ((2, 0.5), (1, 0.4), (4, 0.7), (3, 0.7)):
            store.record_outcome(search, 1, number, scored(value))
        store.record_outcome(search, 1, 0, scored(0.9))
        store.record_outcome(search, 1, 5, Outcome.failed("no"))
        assert store.get_search(search).best == {"search": Best(3, 0.7), "base": Best(0, 0.9)}
        assert [d["number"] for kind, d in told(store, search) if kind == EventKind.BEST] == [2, 4, 3]

    def test_the_best_trial_keeps_within_the_budgets(self, store: Store) -> None:
        """Which no budget does that binds the full network."""
        search = driven(store)
        store.set_state(search, 1, SearchState.RUNNING, info={"budgets": [{"metric": "macs", "max": 10.0, "min": None}]})
        for number, (arm, value, macs) in enumerate([("base", 0.9, 20.0), ("search", 0.8, 10.5), ("search", 0.7, 10.0)]):
            store.record_ask(search, 1, trial(number, arm))
            store.record_outcome(search, 1, number, scored(value, macs=macs))
        assert store.get_search(search).best == {"base": Best(0, 0.9), "search": Best(2, 0.7)}

    def test_the_lowest_loss_is_the_best(self, store: Store) -> None:
        """Where the search is for that."""
        search = add(store, {**SPEC, "objective": "loss"})
        claimed(store)
        for number, loss in enumerate((0.5, 0.3, 0.4)):
            store.record_ask(search, 1, trial(number))
            store.record_outcome(search, 1, number, scored(0.5, loss=loss))
        assert store.get_search(search).best == {"search": Best(1, 0.3)}
