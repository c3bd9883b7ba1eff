"""Who is served next; what is sent and how, tests/services/test_webhooks.py says."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from automl_prune.errors import NotFoundError, StateConflictError
from automl_prune.storage import webhooks as storage
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.webhooks import Delivery, Webhooks


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    opened = SqlStore.open(url)
    yield opened
    opened.close()


def ordered(store: SqlStore, tenant: str) -> int:
    """The number of the event of a new order."""
    return store.events(store.add_search({}, name=None, labels={}, tenant=tenant).id)[0].id


def hook(store: SqlStore, tenant: str) -> str:
    return Webhooks(store).create(tenant, "https://a", "secret", ["search.state"]).id


def shares(claimed: list[Delivery]) -> dict[str, int]:
    return dict(Counter(delivery.event.tenant for delivery in claimed))


def sent(webhooks: Webhooks) -> list[Delivery]:
    """Whatever can be sent, one after the other; all of it arrives."""
    found = []
    while claimed := webhooks.claim(1):
        found += claimed
        webhooks.settle(claimed[0], 200, None)
    return found


def test_webhooks_at_the_same_moment_keep_the_limit(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MOST", 3)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(hook, store, "t") for _ in range(8)]
    assert [type(each.exception()) for each in asked if each.exception()] == [StateConflictError] * 5
    assert len(Webhooks(store).known("t")) == 3


def test_tenants_share_what_is_claimed(store: SqlStore) -> None:
    webhooks = Webhooks(store)
    for tenant, count in (("many", 5), ("two", 2), ("one", 1)):
        for _ in range(count):
            hook(store, tenant)
        ordered(store, tenant)
    assert webhooks.spread() == 8
    assert shares(webhooks.claim(2, {"many": 2})) == {"two": 1, "one": 1}
    assert shares(webhooks.claim(4, {"many": 2}, 4)) == {"many": 2, "two": 1}
    assert shares(webhooks.claim(9)) == {"many": 3}
    assert webhooks.claim(9) == []


def test_webhooks_of_a_tenant_take_turns(store: SqlStore) -> None:
    webhooks, hooks = Webhooks(store), {hook(store, "default") for _ in range(3)}
    events = [ordered(store, "default") for _ in range(2)]
    webhooks.spread()
    turns = [(delivery.webhook_id, delivery.event.id) for delivery in sent(webhooks)]
    assert {webhook for webhook, _ in turns[:3]} == {webhook for webhook, _ in turns[3:]} == hooks
    assert [event for _, event in turns] == [events[0]] * 3 + [events[1]] * 3


def test_a_webhook_waits_for_the_one_on_its_way_until_its_lease_is_over(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks = Webhooks(store)
    hook(store, "default")
    first = ordered(store, "default")
    ordered(store, "default")
    webhooks.spread()
    monkeypatch.setattr(storage, "CLAIM_SECONDS", -1.0)
    (lost,) = webhooks.claim(9)
    monkeypatch.undo()
    (again,) = webhooks.claim(9)
    assert [(d.event.id, d.attempt) for d in (lost, again)] == [(first, 1), (first, 2)]
    webhooks.settle(lost, 200, None)
    assert webhooks.claim(9) == [], "the second is still on its way"


def test_what_failed_lets_later_ones_pass(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", storage.PAUSES[5:])  # hours
    webhooks = Webhooks(store)
    hook(store, "default")
    events = [ordered(store, "default") for _ in range(2)]
    webhooks.spread()
    (first,) = webhooks.claim(9)
    webhooks.settle(first, 500, "it is ill")
    (second,) = webhooks.claim(9)
    assert [first.event.id, second.event.id] == events


def disabled(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """A webhook that was disabled over an event, which waits to be sent again."""
    webhooks, made = Webhooks(store), hook(store, "default")
    event = ordered(store, "default")
    webhooks.spread()
    with monkeypatch.context() as change:
        change.setattr(storage, "PATIENCE", 1)
        (delivery,) = webhooks.claim(1)
        webhooks.settle(delivery, 500, "it is ill")
    return made, event


def test_an_enabled_webhook_goes_on_where_it_stopped(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks = Webhooks(store)
    made, failed = disabled(store, monkeypatch)
    missed = [ordered(store, "default") for _ in range(2)]
    assert (webhooks.spread(), webhooks.claim(9)) == (0, [])
    on = webhooks.enable(made, "default")
    assert [on] == webhooks.known("default")
    assert (on.disabled_at, on.failures) == (None, 0)
    assert webhooks.spread() == 2
    assert [(delivery.event.id, delivery.attempt) for delivery in sent(webhooks)] == [
        (failed, 2),
        (missed[0], 1),
        (missed[1], 1),
    ]


def test_only_a_disabled_webhook_of_ones_own_is_enabled(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks = Webhooks(store)
    made, _ = disabled(store, monkeypatch)
    with pytest.raises(NotFoundError):
        webhooks.enable(made, "strangers")
    webhooks.enable(made, "default")
    (delivery,) = webhooks.claim(1)
    webhooks.settle(delivery, 500, "it is ill")
    (before,) = webhooks.known("default")
    assert before.failures == 1
    assert webhooks.enable(made, "default") == before
    assert webhooks.claim(1) == [], "it waits for its time"


def test_events_that_are_read_again_are_sent_once(store: SqlStore) -> None:
    webhooks, first = Webhooks(store), ordered(store, "default")
    hook(store, "default")
    second = ordered(store, "default")
    webhooks.spread()
    with store.database.write() as session:
        session.execute(text("UPDATE webhooks SET position = 0"))
    webhooks.spread()
    assert sorted(delivery.event.id for delivery in sent(webhooks)) == [first, second]
