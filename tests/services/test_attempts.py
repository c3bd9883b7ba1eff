"""Who drove a search, and why each of them ended: by the interface, and by ``automl-prune show``."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from automl_prune.loop.job import SearchState, Worker
from automl_prune.storage.sql import SqlStore
from services.cli.app import app as commands

Order = Callable[..., dict[str, Any]]
WORKER = Worker("launcher", "node-3", 4711)


def driven_twice(store: SqlStore, order: Order) -> str:
    """A search whose first driver was lost, and whose second one made it fail."""
    search = store.add_search(order(), name=None, labels={}).id
    for _ in range(2):
        assert store.claim(lease_seconds=60, worker=WORKER) is not None
        if store.get_search(search).attempt == 1:
            store.release(search, 1, reason="it was killed by SIGKILL", lost=True)
    store.set_state(search, 2, SearchState.FAILED, reason="no candidate could be evaluated")
    return search


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_attempts_are_listed_with_their_ends(client: TestClient, store: SqlStore, order: Order) -> None:
    search = driven_twice(store, order)
    answer = client.get(client.get(f"/v1/searches/{search}").json()["links"]["attempts"]).json()
    first, second = answer["items"]
    kept = store.attempts(search)
    assert answer["next_page_token"] is None
    assert first == {
        "number": 1,
        "started_at": kept[0].started_at.isoformat(),
        "ended_at": kept[0].ended_at.isoformat() if kept[0].ended_at else None,
        "lost": True,
        "reason": kept[0].reason,
        "worker": {"name": "launcher", "host": "node-3", "pid": 4711},
    }
    assert "it was killed by SIGKILL" in first["reason"]
    assert (second["number"], second["lost"], second["reason"]) == (2, False, "failed: no candidate could be evaluated")


def test_what_was_never_taken_up_has_none_and_what_is_under_way_has_no_end(
    client: TestClient, store: SqlStore, order: Order
) -> None:
    search = store.add_search(order(), name=None, labels={}).id
    assert client.get(f"/v1/searches/{search}/attempts").json()["items"] == []
    store.claim(lease_seconds=60)
    (only,) = client.get(f"/v1/searches/{search}/attempts").json()["items"]
    assert (only["ended_at"], only["reason"], only["worker"], only["lost"]) == (None, None, None, False)
    assert client.get("/v1/searches/srch_none/attempts").status_code == 404


def test_the_command_shows_them(app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, order: Order) -> None:
    search, address = driven_twice(store, order), serve(app)

    def show(*arguments: str) -> str:
        result = CliRunner().invoke(commands, ["show", search, *arguments, "--server", address])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "launcher" not in show()
    assert "attempts" not in json.loads(show("--json"))
    lines = show("--attempts").splitlines()[-2:]
    assert lines[0].split()[:5] == ["1", "launcher", "(node-3,", "process", "4711)"]
    assert "yes" in lines[0]
    assert "killed by SIGKILL" in lines[0]
    assert lines[1].endswith("failed: no candidate could be evaluated")
    told = json.loads(show("--attempts", "--json"))
    assert (told["id"], [attempt["number"] for attempt in told["attempts"]]) == (search, [1, 2])
