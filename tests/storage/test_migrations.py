from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from automl_prune.errors import UserError
from automl_prune.storage import migrate
from automl_prune.storage.engine import connect
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import Base


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = connect(empty_url)
    yield engine
    engine.dispose()


def test_an_empty_database_is_brought_to_the_newest_schema(empty_url: str) -> None:
    assert migrate.current(empty_url) is None
    migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == migrate.revisions()[0]
    migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == migrate.revisions()[0]


def test_threads_may_upgrade_at_once(empty_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate.upgrade, [empty_url] * 3))
    assert migrate.current(empty_url) == migrate.revisions()[0]


def test_the_migrations_make_the_tables_of_the_program(empty_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_indexes_and_constraints_are_the_same_by_migration_and_by_metadata(empty_url: str, engine: Engine) -> None:
    Base.metadata.create_all(engine)
    declared = schema(engine)
    Base.metadata.drop_all(engine)
    migrate.upgrade(empty_url)
    assert schema(engine) == declared


def schema(engine: Engine) -> dict[str, Any]:
    inspector = inspect(engine)
    return {
        table: {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)},
            "key": inspector.get_pk_constraint(table),
            "references": inspector.get_foreign_keys(table),
            "indexes": sorted(
                (i["name"], i["column_names"], i["unique"], {k: str(v) for k, v in i["dialect_options"].items()})
                for i in inspector.get_indexes(table)
            ),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_alembic_itself_finds_nothing_to_add(empty_sqlite_url: str) -> None:
    migrate.upgrade(empty_sqlite_url)
    config = migrate.script_config()
    config.cmd_opts = Namespace(x=[f"url={empty_sqlite_url}"])
    config.print_stdout = lambda *_: None  # type: ignore[method-assign]
    command.check(config)


def test_a_store_on_an_old_schema_is_refused_with_what_to_do(empty_url: str) -> None:
    with pytest.raises(UserError, match="automl-prune db upgrade"):
        SqlStore(empty_url)
    with pytest.raises(UserError, match="automl-prune db upgrade"):
        SqlStore.open(empty_url)
    assert migrate.current(empty_url) is None


def test_a_store_may_upgrade_first(empty_url: str) -> None:
    with closing(SqlStore.open(empty_url, upgrade=True)) as store:
        search = store.add_search({}, name=None, labels={}).id
    with closing(SqlStore.open(empty_url, upgrade=True)) as store:
        assert [job.id for job in store.list_searches()] == [search]


def test_a_schema_from_the_future_is_refused_and_kept(empty_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (SqlStore, migrate.upgrade):
        with pytest.raises(UserError, match="newer"):
            attempt(empty_url)
    assert migrate.current(empty_url) == "9999"
