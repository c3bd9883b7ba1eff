"""The audit trail in a database: what is noted besides searches, in one transaction with what it tells of."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from automl_prune.errors import NotFoundError
from automl_prune.latency.conditions import DeviceDescription
from automl_prune.loop.audit import Action, Origin
from automl_prune.storage.keys import ApiKeys, Scope
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.webhooks import Webhooks
from automl_prune.testing.store_kit import SPEC, add

STORAGE = Path(__file__).parents[2] / "automl_prune" / "storage"
ADMIN = Origin("key_admin", "192.0.2.7", "request-1")
SECRET = "a secret of sixteen"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url)) as store:
        yield store


def noted(store: SqlStore, **of: Any) -> list[tuple[str, str, str, str]]:
    """Whose, what, of what, with which result, oldest first; all by the admin."""
    found = store.audit(**of)
    assert {entry.origin for entry in found} <= {ADMIN}
    return [(entry.tenant, entry.action, entry.object_id, entry.result) for entry in reversed(found)]


def test_keys_are_noted(store: SqlStore) -> None:
    keys = ApiKeys(store.database)
    key, token = keys.create("ci", tenant="edge", scopes=[Scope.WRITE, Scope.READ], origin=ADMIN)
    with pytest.raises(NotFoundError):
        keys.revoke(key.id, tenant="core", origin=ADMIN)
    for _ in range(2):
        keys.revoke(key.id, origin=ADMIN)
    assert noted(store) == [
        ("edge", Action.CREATE_KEY, key.id, "search:read, search:write"),
        ("edge", Action.REVOKE_KEY, key.id, "revoked"),
    ]
    assert keys.find(token) is None


def test_webhooks_are_noted(store: SqlStore) -> None:
    webhooks = Webhooks(store)
    made = webhooks.create("edge", "https://a.example/path", SECRET, ["end"], origin=ADMIN)
    with pytest.raises(NotFoundError):
        webhooks.remove(made.id, "core", origin=ADMIN)
    webhooks.remove(made.id, "edge", origin=ADMIN)
    assert noted(store) == [
        ("edge", Action.CREATE_WEBHOOK, made.id, "enabled"),
        ("edge", Action.REMOVE_WEBHOOK, made.id, "removed"),
    ]


def test_devices_are_noted(store: SqlStore) -> None:
    devices = SqlDevices(store.database)
    for torch in ("2.7", "2.7", "2.8"):
        devices.register("edge", "pi", DeviceDescription({"processor": "ARM"}, {"torch": torch}), origin=ADMIN)
    results = [result for *_, result in noted(store, object_id="pi")]
    assert results == ["registered", "started again", "described anew"]


def test_nothing_secret_is_kept(store: SqlStore) -> None:
    _, token = ApiKeys(store.database).create("ci")
    Webhooks(store).create("edge", "https://a.example/path", SECRET, ["end"])
    store.add_search(SPEC | {"seed": 271828}, name="a name", labels={"team": "edge"})
    with store.database.read() as session:
        kept = repr(session.execute(text("SELECT * FROM audit")).all())
    assert kept.count("audt_") == 3
    for secret in (token, token[4:-8], token[-4:], SECRET, "a.example", "271828", "a name", "team"):
        assert secret not in kept


def test_what_cannot_be_noted_is_not_done(sqlite_url: str) -> None:
    with closing(SqlStore(sqlite_url)) as store:
        search = add(store)
        before, events = store.get_search(search), store.events()
        keys, webhooks, devices = ApiKeys(store.database), Webhooks(store), SqlDevices(store.database)
        hook = webhooks.create("edge", "https://a.example", SECRET, ["end"])
        with store.database.write() as session:
            session.execute(text("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"))
        for change in (
            lambda: add(store),
            lambda: store.update_search(search, name="b"),
            lambda: store.request_pause(search),
            lambda: store.request_cancel(search),
            lambda: keys.create("ci"),
            lambda: webhooks.create("edge", "https://b.example", SECRET, ["end"]),
            lambda: webhooks.remove(hook.id, "edge"),
            lambda: devices.register("edge", "pi", DeviceDescription({}, {})),
        ):
            with pytest.raises(IntegrityError, match="full"):
                change()
        assert ([job.id for job in store.list_searches()], store.get_search(search)) == ([search], before)
        assert store.events() == events
        assert (keys.known(), webhooks.known("edge"), devices.devices("edge")) == ([], [hook], [])


def test_no_code_changes_or_deletes_an_entry() -> None:
    assert {file.name for file in STORAGE.rglob("*.py") if "AuditRow" in file.read_text()} == {"tables.py", "trail.py"}
    assert not re.search(r"\b(update|delete|merge)\(", (STORAGE / "trail.py").read_text())
