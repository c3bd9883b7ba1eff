"""Private hosts that an operator lets webhooks reach, and names that take long to look up."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpcore
import pytest
from fastapi.testclient import TestClient

from automl_prune.errors import SpecError
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.storage import webhooks as storage
from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.webhooks import Webhooks
from services.api.app import create_app
from services.api.context import Review
from services.settings import Settings, load_settings
from services.webhooks import guard
from services.webhooks.exempt import covers, of_tenant
from services.webhooks.sender import Sender
from tests.services.receivers import receiving

Fill = Callable[[Store], str]


def test_a_private_host_is_reached_by_its_tenant_on_its_port(
    store: SqlStore, settings: Settings, review: Review, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others and other ports are refused, when a webhook is made and, should the setting change, when it is sent."""
    keys, webhooks = ApiKeys(store.database), Webhooks(store)
    tokens = {tenant: keys.create("k", tenant=tenant)[1] for tenant in ("default", "edge")}
    with receiving() as receiver:
        allowed = settings.model_copy(update={"webhook_hosts": (f"default=127.0.0.1:{receiver.port}",)})
        with TestClient(create_app(store, allowed, review), base_url="http://127.0.0.1") as client:
            for tenant, token in tokens.items():
                client.headers["X-API-Key"] = token
                made = client.post("/v1/webhooks", json={"url": receiver.url, "events": ["end"]})
                assert made.status_code == (201 if tenant == "default" else 422)
                assert client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).status_code == 422
        job = store.get_search(fill(store))
        store.set_state(job.id, job.attempt, SearchState.SUCCEEDED)
        webhooks.spread()
        monkeypatch.setattr(storage, "PAUSES", (0.0,) * 8)
        for hosts, got in ((("edge=127.0.0.1",), 0), (allowed.webhook_hosts, 1)):
            sender = Sender(webhooks, settings.model_copy(update={"webhook_hosts": hosts}))
            with ThreadPoolExecutor(1) as pool:
                assert sender.step(pool)
            assert len(receiver.got) == got


@pytest.mark.parametrize(
    ("entry", "reached", "others"),
    [
        ("hooks", [("edge", "hooks", 80), ("core", "hooks", 9)], [("edge", "hooks.example", 80)]),
        ("hooks:80", [("core", "hooks", 80)], [("core", "hooks", 443)]),
        ("edge=hooks", [("edge", "hooks", 9)], [("core", "hooks", 9)]),
        ("edge=hooks:80", [("edge", "hooks", 80)], [("edge", "hooks", 81), ("core", "hooks", 80)]),
        ("::1", [("core", "::1", 9)], [("core", "::2", 9)]),
        ("[::1]", [("core", "::1", 9)], [("core", "::2", 9)]),
        ("edge=[::1]:80", [("edge", "::1", 80)], [("edge", "::1", 9), ("core", "::1", 80)]),
    ],
)
def test_what_an_entry_of_the_setting_covers(
    entry: str, reached: list[tuple[str, str, int]], others: list[tuple[str, str, int]]
) -> None:
    hosts = load_settings(webhook_hosts=entry).webhook_hosts
    assert all(covers(of_tenant(hosts, tenant), host, port) for tenant, host, port in reached)
    assert not any(covers(of_tenant(hosts, tenant), host, port) for tenant, host, port in others)


@pytest.mark.parametrize("entry", ["http://hooks", "hooks:", "hooks:http", "=hooks", "a=b=hooks", "hooks/path"])
def test_no_entry_of_the_setting_is_half_understood(entry: str) -> None:
    with pytest.raises(SpecError, match="WEBHOOK_HOSTS"):
        load_settings(webhook_hosts=entry)


def test_a_name_that_is_looked_up_slowly_costs_no_more_than_a_slow_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        over.wait(60)
        return ["93.184.215.14"]

    monkeypatch.setattr(guard, "resolve", resolve)
    monkeypatch.setattr(guard, "SECONDS", 3.0)
    began = time.monotonic()
    try:
        for exempt in ((), ("slow.example",)):
            with pytest.raises(httpcore.ConnectTimeout, match=r"slow\.example could not be looked up"):
                guard.post("https://slow.example/", b"{}", {}, exempt)
        assert time.monotonic() - began < 30
    finally:
        over.set()
