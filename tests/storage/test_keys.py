import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from automl_prune.errors import NotFoundError, UserError
from automl_prune.storage import tokens
from automl_prune.storage.database import Database
from automl_prune.storage.keys import ApiKeys, KeyLimits, Scope
from automl_prune.storage.tables import ApiKeyRow


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def keys(database: Database) -> ApiKeys:
    return ApiKeys(database)


def test_a_token_is_256_random_bits_with_a_checksum() -> None:
    made = {tokens.new_token() for _ in range(50)}
    assert len(made) == 50
    for token in made:
        body = token[:-8]
        assert re.fullmatch(r"aps_[0-9a-f]{72}", token)
        assert token == f"{body}{zlib.crc32(body.encode()):08x}"
        assert tokens.is_token(token)


def test_what_was_mistyped_is_no_token() -> None:
    token = tokens.new_token()
    other = "0" if token[10] != "0" else "1"
    for text_ in (
        token[:10] + other + token[11:],
        token[:-1],
        token + "0",
        token.upper(),
        token[4:],
        "",
        "aps_",
        f"{token}\n",
    ):
        assert not tokens.is_token(text_), text_


def test_a_token_that_was_made_elsewhere_is_taken_once(keys: ApiKeys, database: Database) -> None:
    """Its digest is kept and no more; whoever adopts it again gets the same key, and a revoked one stays so."""
    token = tokens.new_token()
    with ThreadPoolExecutor(4) as pool:
        adopted = {key.id for key in pool.map(lambda _: keys.adopt(token, "first", scopes=list(Scope)), range(8))}
    assert len(adopted) == len(keys.known()) == 1
    found = keys.find(token)
    assert found is not None
    assert (found.name, found.scopes, found.tenant) == ("first", frozenset(Scope), "default")
    with database.read() as session:
        assert token not in repr(session.execute(select(ApiKeyRow.__table__)).all())
    keys.revoke(found.id)
    assert keys.adopt(token, "first", scopes=list(Scope)).revoked_at is not None
    assert keys.find(token) is None
    for other in ("", "secret", token[:-1]):
        with pytest.raises(UserError, match="no API key") as refused:
            keys.adopt(other, "first", scopes=list(Scope))
        assert not other or other not in str(refused.value)


def test_a_key_is_found_by_its_token_alone(keys: ApiKeys) -> None:
    limits = KeyLimits(queued=3, running=1, trials=200, parallel=4, priority=7)
    key, token = keys.create("ci", tenant="edge", scopes=[Scope.READ], limits=limits)
    other, _ = keys.create("other")
    found = keys.find(token)
    assert found is not None
    assert (found.id, found.tenant, found.name, found.scopes, found.limits) == (
        key.id,
        "edge",
        "ci",
        frozenset({Scope.READ}),
        limits,
    )
    assert found.hint == token[-4:]
    assert (other.tenant, other.scopes, other.limits) == ("default", frozenset({Scope.READ, Scope.WRITE}), KeyLimits())
    assert keys.find(tokens.new_token()) is None
    assert keys.find("") is None
    assert [k.id for k in keys.known()] == [key.id, other.id]
    assert [k.id for k in keys.known(tenant="edge")] == [key.id]


def test_a_key_from_before_there_was_a_limit_of_priority_has_the_lowest(keys: ApiKeys, database: Database) -> None:
    _, token = keys.create("old", limits=KeyLimits(running=2, priority=9))
    _set(database, limits={"running": 2})
    found = keys.find(token)
    assert found is not None
    assert found.limits == KeyLimits(running=2, priority=0)


def test_no_token_is_kept(keys: ApiKeys, database: Database) -> None:
    _, token = keys.create("ci")
    keys.find(token)
    with database.read() as session:
        row = session.execute(text("SELECT * FROM api_keys")).one()
    assert tokens.digest(token) in row
    assert token not in repr(tuple(row))
    assert token[4:-8] not in repr(tuple(row))


def test_an_expired_key_opens_nothing(keys: ApiKeys, database: Database) -> None:
    key, token = keys.create("ci", expires_in=timedelta(hours=1))
    assert key.expires_at is not None
    assert abs(key.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    assert keys.find(token) is not None
    assert keys.valid([key.id, "key_none"]) == {key.id}
    _set(database, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert keys.find(token) is None
    assert keys.valid([key.id]) == set()


def test_a_revoked_key_opens_nothing_but_keeps_the_door_closed(keys: ApiKeys, database: Database) -> None:
    assert not keys.exist()
    key, token = keys.create("ci", tenant="edge")
    with pytest.raises(NotFoundError):
        keys.revoke(key.id, tenant="core")
    assert keys.find(token) is not None
    revoked = keys.revoke(key.id)
    assert revoked.revoked_at is not None
    assert keys.revoke(key.id, tenant="edge").revoked_at == revoked.revoked_at
    assert keys.find(token) is None
    assert keys.valid([key.id]) == set()
    assert keys.exist()
    assert ApiKeys(database).exist()
    with pytest.raises(NotFoundError, match="key_none"):
        keys.revoke("key_none")


def test_a_use_is_written_once_a_minute(keys: ApiKeys, database: Database) -> None:
    _, token = keys.create("ci")
    writes: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE"):
            writes.append(statement)

    for _ in range(5):
        assert keys.find(token) is not None
    assert len(writes) == 1
    last = keys.known()[0].last_used_at
    assert last is not None
    assert abs(last - datetime.now(UTC)) < timedelta(minutes=1)
    _set(database, last_used_at=last - timedelta(seconds=61))
    writes.clear()
    for _ in range(5):
        keys.find(token)
    assert len(writes) == 1
    with database.read() as session:
        assert session.scalar(select(ApiKeyRow.last_used_at)) == keys.known()[0].last_used_at != last - timedelta(seconds=61)


def test_a_use_that_cannot_be_noted_keeps_nobody_out(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    _, token = ApiKeys(database).create("ci")
    with database.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TRIGGER no BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'full'); END")
        connection.commit()
    database.close()
    database = Database(sqlite_url)
    assert ApiKeys(database).find(token) is not None
    database.close()


def test_admin_is_every_scope_but_the_one_that_is_about_all_tenants(keys: ApiKeys) -> None:
    admin, _ = keys.create("root", scopes=[Scope.ADMIN])
    reader, _ = keys.create("reader", scopes=[Scope.READ])
    assert [scope for scope in Scope if not admin.allows(scope)] == [Scope.METRICS]
    assert keys.create("both", scopes=[Scope.ADMIN, Scope.METRICS])[0].allows(Scope.METRICS)
    assert [scope for scope in Scope if reader.allows(scope)] == [Scope.READ]


def test_the_limit_of_a_key_outlives_it(keys: ApiKeys, database: Database) -> None:
    small, _ = keys.create("a", tenant="edge", limits=KeyLimits(running=1))
    none, _ = keys.create("b", tenant="edge", limits=KeyLimits(running=0), expires_in=timedelta(hours=1))
    keys.create("c", tenant="edge")
    keys.revoke(small.id)
    _set(database, expires_at=datetime.now(UTC) - timedelta(hours=1))
    assert keys.running_limits() == {small.id: 1, none.id: 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"tenant": ""},
        {"scopes": []},
        {"expires_in": timedelta(0)},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(sqlite_url: str, wrong: dict[str, Any]) -> None:
    database = Database(sqlite_url)
    with pytest.raises(UserError):
        ApiKeys(database).create(**({"name": "ci"} | wrong))
    assert ApiKeys(database).known() == []
    database.close()
    with pytest.raises(UserError, match="queued"):
        KeyLimits(queued=-1)
    for priority in (-1, 101):
        with pytest.raises(UserError, match="priority"):
            KeyLimits(priority=priority)


def _set(database: Database, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(ApiKeyRow).values(**values))
