"""Stores of devices; and that of several agents each gets its own work."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import func, select, update

from automl_prune.errors import AnotherAgentError, StateConflictError
from automl_prune.latency.blocks import REFERENCE
from automl_prune.latency.registered import DeviceStore
from automl_prune.latency.work import Work
from automl_prune.storage import device_rules
from automl_prune.storage.database import Database
from automl_prune.storage.memory.devices import MemoryDevices
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.tables import BatchRow, DeviceRow, MeasurementRow
from automl_prune.testing.store_devices import PI, DeviceContract, claimed, put


class TestMemoryDevices(DeviceContract):
    @pytest.fixture
    def devices(self) -> DeviceStore:
        return MemoryDevices()


class TestSqliteDevices(DeviceContract):
    @pytest.fixture
    def devices(self, sqlite_url: str) -> Iterator[DeviceStore]:
        with closing(Database(sqlite_url)) as database:
            yield SqlDevices(database)


class TestPostgresDevices(DeviceContract):
    @pytest.fixture
    def devices(self, postgres_url: str) -> Iterator[DeviceStore]:
        with closing(Database(postgres_url)) as database:
            yield SqlDevices(database)


def test_agents_at_the_same_moment_get_each_measurement_once(url: str) -> None:
    works: list[Work] = [REFERENCE.signature.at(8, width) for width in range(1, 61)]
    with closing(Database(url)) as database, ThreadPoolExecutor(4) as pool:
        devices = SqlDevices(database)
        assert len({device.name for device in pool.map(lambda _: devices.register("t", "pi", PI), range(4))}) == 1
        batch = put(devices, works)

        def claim_all(_: int) -> list[str]:
            mine: list[str] = []
            while found := claimed(devices, most=4):
                mine += [one.id for one in found]
            return mine

        taken = [one for mine in pool.map(claim_all, range(4)) for one in mine]
    assert sorted(taken) == [one.id for one in batch]


def test_devices_at_the_same_moment_keep_the_limit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rules, "MOST_DEVICES", 3)
    with closing(Database(url)) as database, ThreadPoolExecutor(8) as pool:
        devices = SqlDevices(database)
        asked = [pool.submit(devices.register, "t", f"pi{number}", PI) for number in range(8)]
        refused = [type(each.exception()) for each in asked if each.exception()]
        assert refused == [StateConflictError] * 5
        assert len(devices.devices("t")) == 3


def test_what_nobody_wanted_for_a_week_is_forgotten(url: str) -> None:
    with closing(Database(url)) as database:
        devices = SqlDevices(database)
        old, kept = put(devices), put(devices)
        with database.write() as session:
            week = {"wanted_until": database.now(-8 * 86400)}
            session.execute(update(BatchRow).where(BatchRow.id == old[0].batch).values(**week))
        put(devices)
        with database.read() as session:
            assert old[0].batch not in session.scalars(select(BatchRow.id)).all()
            assert session.scalar(select(func.count()).select_from(MeasurementRow)) == 2 * len(kept)


def test_a_device_of_before_there_were_epochs_waits_for_its_agent(url: str) -> None:
    with closing(Database(url)) as database:
        devices = SqlDevices(database)
        batch = put(devices)
        with database.write() as session:
            session.execute(update(DeviceRow).values(epoch=None))
        assert devices.device("t", "pi").epoch is None
        with pytest.raises(AnotherAgentError):
            claimed(devices)
        devices.register("t", "pi", PI)
        assert len(claimed(devices)) == len(batch)
