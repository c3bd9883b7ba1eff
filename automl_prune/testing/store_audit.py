"""What a store remembers of who changed what."""

import pytest

from automl_prune.errors import NotFoundError, PreconditionError, StateConflictError
from automl_prune.loop.audit import HERE, Action, AuditEntry, Origin
from automl_prune.loop.ports import Idempotency, Store
from automl_prune.testing.store_kit import SPEC, add, claimed

ALICE = Origin("key_alice", "192.0.2.7", "request-1")
BOB = Origin("key_bob", "2001:db8::1", "request-2")


def told(entries: list[AuditEntry]) -> list[tuple[Action, str]]:
    """Actions and their results, oldest first."""
    return [(entry.action, entry.result) for entry in reversed(entries)]


class AuditContract:
    """What clients change is noted, with whose doing it was."""

    def test_every_change_is_noted_with_who_made_it(self, store: Store) -> None:
        """And what is true of the search since."""
        search = store.add_search(SPEC, name="a", labels={}, tenant="edge", origin=ALICE).id
        store.update_search(search, name="b", origin=BOB)
        store.request_pause(search, origin=ALICE)
        store.request_resume(search, origin=BOB)
        store.request_cancel(search, tenant="edge", origin=ALICE)
        entries = store.audit()
        assert told(entries) == [
            (Action.ORDER, "queued"),
            (Action.CHANGE, "queued"),
            (Action.PAUSE, "paused"),
            (Action.RESUME, "queued"),
            (Action.CANCEL, "cancelled"),
        ]
        assert [entry.origin for entry in entries] == [ALICE, BOB, ALICE, BOB, ALICE]
        assert {(entry.tenant, entry.object_id) for entry in entries} == {("edge", search)}
        times = [entry.at for entry in entries]
        assert times == sorted(times, reverse=True)
        assert times[-1] >= store.get_search(search).created_at

    def test_what_a_driver_is_asked_for_is_noted_as_such(self, store: Store) -> None:
        """It is not done yet."""
        search = add(store)
        claimed(store)
        store.request_pause(search, origin=ALICE)
        store.request_resume(search, origin=ALICE)
        store.request_cancel(search, origin=ALICE)
        asked = [(Action.PAUSE, "pause requested"), (Action.RESUME, "preparing"), (Action.CANCEL, "cancel requested")]
        assert told(store.audit())[1:] == asked

    def test_what_changes_nothing_is_not_noted(self, store: Store) -> None:
        """Nor is what is refused, nor an order that came before."""
        first = store.add_search_once(SPEC, name=None, labels={}, idempotency=Idempotency("k", "f"), origin=ALICE).job
        store.add_search_once(SPEC, name=None, labels={}, idempotency=Idempotency("k", "f"), origin=BOB)
        with pytest.raises(PreconditionError):
            store.update_search(first.id, name="b", expected_version=9, origin=BOB)
        with pytest.raises(StateConflictError):
            store.request_resume(first.id, origin=BOB)
        for _ in range(2):
            store.request_pause(first.id, origin=ALICE)
        with pytest.raises(NotFoundError):
            store.request_cancel(first.id, tenant="other", origin=BOB)
        store.request_resume(first.id, origin=ALICE)
        claimed(store)
        for _ in range(2):
            store.request_cancel(first.id, origin=ALICE)
        assert [entry.origin for entry in store.audit()] == [ALICE] * 4

    def test_a_change_that_no_request_made_is_noted_too(self, store: Store) -> None:
        """Nobody is named."""
        add(store)
        assert [entry.origin for entry in store.audit()] == [HERE]

    def test_the_trail_is_read_in_pages_newest_first(self, store: Store) -> None:
        """Of a tenant, of a search, or all of it."""
        mine, other = (store.add_search(SPEC, name=None, labels={}, tenant=tenant).id for tenant in ("mine", "other"))
        for number in range(4):
            store.update_search(mine, name=str(number))
        store.update_search(other, name="x")
        everything = store.audit()
        assert len(everything) == 7
        assert [entry.id for entry in everything] == sorted((entry.id for entry in everything), reverse=True)
        pages = [store.audit(tenant="mine", limit=3)]
        while pages[-1]:
            pages.append(store.audit(tenant="mine", limit=3, before=pages[-1][-1].id))
        assert [len(page) for page in pages] == [3, 2, 0]
        assert [entry for page in pages for entry in page] == [entry for entry in everything if entry.tenant == "mine"]
        assert store.audit(object_id=other) == [entry for entry in everything if entry.object_id == other]
        assert store.audit(object_id=other, tenant="mine") == store.audit(object_id="a\0b") == []
