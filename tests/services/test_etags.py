"""Acting only on what one has seen: If-Match wherever something is asked of a search, or deleted."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from automl_prune.errors import PreconditionError
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import WebhookRow
from automl_prune.storage.webhooks import Webhooks
from services.settings import Settings

Order = Callable[..., dict[str, Any]]

VERBS = ("pause", "resume", "cancel")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})


@pytest.fixture
def path(client: TestClient, order: Order) -> str:
    """Of a queued search."""
    return str(client.post("/v1/searches", json=order()).headers["location"])


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_a_search_does_what_those_ask_who_saw_it(client: TestClient, path: str) -> None:
    tag = client.get(path).headers["etag"]
    for verb in VERBS:
        done = client.post(f"{path}:{verb}", headers={"If-Match": tag})
        assert done.status_code == 202, done.text
        stale = client.post(f"{path}:{verb}", headers={"If-Match": tag})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        now = client.get(path)
        assert (now.json(), now.headers["etag"]) == (done.json(), done.headers["etag"])
        tag = done.headers["etag"]


def test_trials_and_other_tags_are_no_hindrance_and_weak_ones_are_none(
    client: TestClient, store: SqlStore, path: str
) -> None:
    tag = client.get(path).headers["etag"]
    weak = client.post(f"{path}:pause", headers={"If-Match": f"W/{tag}"})
    assert weak.status_code == 412
    older_trials = f'{tag.partition("-")[0]}-0"'
    assert client.post(f"{path}:pause", headers={"If-Match": f'"other", {older_trials}'}).json()["state"] == "paused"
    assert client.post(f"{path}:resume", headers={"If-Match": "*"}).json()["state"] == "queued"
    assert client.post(f"{path}:resume", headers={"If-Match": "*"}).status_code == 409
    assert client.post("/v1/searches/srch_none:cancel", headers={"If-Match": "*"}).status_code == 404


def test_of_many_who_saw_the_same_one_is_heard(client: TestClient, path: str) -> None:
    tag = client.get(path).headers["etag"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(f"{path}:pause", headers={"If-Match": tag}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [412] * 7


@pytest.fixture
def hook(client: TestClient) -> tuple[str, str]:
    """The path of a webhook, and its ETag."""
    made = client.post("/v1/webhooks", json={"url": "https://127.0.0.1/hook"})
    return made.headers["location"], made.headers["etag"]


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_a_webhook_is_deleted_by_those_who_saw_it(client: TestClient, store: SqlStore, hook: tuple[str, str]) -> None:
    path, tag = hook
    shown = client.get(path)
    assert (shown.headers["etag"], shown.json()) == (tag, client.get("/v1/webhooks").json()["items"][0])
    with store.database.write() as session:
        session.execute(update(WebhookRow).values(disabled_at=store.database.now()))
    for stale in (tag, '"other"', f"W/{client.get(path).headers['etag']}"):
        refused = client.delete(path, headers={"If-Match": stale})
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    now = client.get(path).headers["etag"]
    with store.database.write() as session:
        session.execute(update(WebhookRow).values(failures=19))
    assert client.get(path).headers["etag"] != now, "it is shown otherwise, but nobody changed it"
    assert client.delete(path, headers={"If-Match": now}).status_code == 204
    assert [client.get(path).status_code, client.delete(path, headers={"If-Match": now}).status_code] == [404, 404]


def test_a_webhook_that_changes_meanwhile_stays(client: TestClient, store: SqlStore, hook: tuple[str, str]) -> None:
    webhooks = Webhooks(store)
    (seen,) = webhooks.known("default")
    with store.database.write() as session:
        session.execute(update(WebhookRow).values(disabled_at=store.database.now()))
    with pytest.raises(PreconditionError):
        webhooks.remove(seen.id, "default", expected=seen)
    assert client.delete(hook[0], headers={"If-Match": "*"}).status_code == 204
