from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from automl_prune.storage.retention import Retention
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import EventRow, SearchRow
from automl_prune.storage.watching import Watcher
from automl_prune.storage.webhooks import Webhooks
from automl_prune.testing.store_kit import SCORED, driven, trial


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def store(request: pytest.FixtureRequest) -> Iterator[SqlStore]:
    with closing(SqlStore(request.getfixturevalue(request.param))) as opened:
        yield opened


def searched(store: SqlStore, trials: int) -> str:
    """A running search of so many trials, with two events each."""
    search = driven(store)
    for number in range(trials):
        store.record_ask(search, 1, trial(number))
        store.record_start(search, 1, number)
        store.record_outcome(search, 1, number, SCORED)
    return search


def age(store: SqlStore, days: float, up_to: int = 10**9) -> None:
    """Let what there is be so many days older."""
    then = store.database.now(-days * 86_400)
    with store.database.write() as session:
        session.execute(update(SearchRow).values(created_at=then))
        session.execute(update(EventRow).where(EventRow.id <= up_to).values(created_at=then))


def numbers(store: SqlStore, search: str) -> list[int]:
    return [event.id for event in store.events(search, limit=10_000)]


def test_old_events_go_and_the_last_ones_stay(store: SqlStore) -> None:
    search, other = searched(store, 10), searched(store, 2)
    before, untouched = numbers(store, search), numbers(store, other)
    retention, watcher = Retention(store.database, days=7, least=15), Watcher(store.database)
    assert retention.prune() == 0
    age(store, 6)
    assert retention.prune() == 0
    assert watcher.pruned(search) == 0
    age(store, 8)
    assert retention.prune() == len(before) - 15
    assert numbers(store, search) == before[-15:]
    assert (watcher.pruned(search), watcher.pruned(other)) == (before[-16], 0)
    assert numbers(store, other) == untouched
    assert retention.prune() == 0


def test_nobody_waits_for_a_look_at_what_need_not_go(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(store, 3)
    age(store, 8)
    begun: list[bool] = []
    write = store.database.write

    def noted(*, through: bool = False) -> AbstractContextManager[Session]:
        begun.append(through)
        return write(through=through)

    monkeypatch.setattr(store.database, "write", noted)
    retention = Retention(store.database, days=7, least=1)
    assert Retention(store.database, days=7, least=1000).prune() == 0
    assert begun == []
    assert retention.prune() > 0
    assert len(begun) == 1
    assert retention.prune() == 0
    assert len(begun) == 1


def test_young_events_stay_however_many_there_are(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl_prune.storage.retention._AT_ONCE", 3)
    search = searched(store, 10)
    before = numbers(store, search)
    age(store, 8, up_to=before[10])
    assert Retention(store.database, days=7, least=1).prune() == 11
    assert numbers(store, search) == before[11:]
    assert Watcher(store.database).pruned(search) == before[10]


def test_what_a_webhook_waits_for_stays(store: SqlStore) -> None:
    webhooks = Webhooks(store)
    hook = webhooks.create("default", "https://example.org/", "s" * 16, {"trial.completed"})
    search = searched(store, 6)
    before = numbers(store, search)
    age(store, 8)
    retention = Retention(store.database, days=7, least=1)
    assert retention.prune() == 0, "nobody spread them"
    while webhooks.spread():
        pass
    (first,) = webhooks.claim(100)
    assert retention.prune() == before.index(first.event.id)
    webhooks.settle(first, 200, None)
    for _ in range(5):
        (delivery,) = webhooks.claim(100)
        webhooks.settle(delivery, 200, None)
    retention.prune()
    assert numbers(store, search) == before[-1:]
    assert webhooks.spread() == 0
    webhooks.remove(hook.id, "default")
