"""The networks that NetAdapt builds on, as clients come to them: from the search to its winners, and on to their weights."""

import hashlib
import threading
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from safetensors.torch import load

from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.sql import SqlStore
from automl_prune.trial import Trial
from services.settings import Settings
from tests.loop.test_family import ORDER

SLOW_ON_POSTGRESQL = True


def cancelled_after(winners: int, store: SqlStore, artifacts: Path, folder: Path) -> str:
    """A real search that is cancelled once it came to so many winners."""
    order: dict[str, Any] = ORDER | {"base_training": {"epochs": 1}, "controls": []}
    store.add_search(SearchSpec.parse(order).model_dump(mode="json"), name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    plan = make_plan(SearchSpec.parse(order), Roots(folder / "data", folder / "weights", folder / "cache"))
    cancel = threading.Event()

    def told(trial: Trial) -> None:
        if len(store.get_search(job.id).info.get("family", ())) >= winners:
            cancel.set()

    ended = run_search(plan, job, store, InlineExecutor(), artifacts / job.id, cancel=cancel, on_trial=told)
    assert ended.state is SearchState.CANCELLED
    return job.id


def test_from_the_family_to_its_trials_to_their_weights(
    client: TestClient, store: SqlStore, settings: Settings, tmp_path: Path
) -> None:
    path = f"/v1/searches/{cancelled_after(2, store, settings.artifacts_root, tmp_path)}"
    family = client.get(path).json()["info"]["family"]
    assert len(family) >= 2
    first = client.get(f"{path}/trials", params={"winner": True, "limit": 1}).json()
    rest = client.get(f"{path}/trials", params={"winner": True, "page_token": first["next_page_token"]}).json()
    winners = first["items"] + rest["items"]
    assert [t["number"] for t in winners] == family
    assert rest["next_page_token"] is None
    assert client.get(f"{path}/trials?winner=true&arm=random").json()["items"] == []
    files = {f["name"]: f for f in client.get(f"{path}/artifacts").json()["items"]}
    smaller: list[int] = []
    for trial in winners:
        file = files[trial["weights"]]
        content = client.get(file["href"]).content
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
        smaller.append(sum(tensor.numel() for tensor in load(content).values()))
    assert smaller == sorted(set(smaller), reverse=True)
    others = [t for t in client.get(f"{path}/trials?arm=search&limit=200").json()["items"] if not t["winner"]]
    assert others
    assert {t["weights"] for t in others} == {None}


def test_a_search_without_a_family_has_no_winners(client: TestClient, store: SqlStore, fill: Any) -> None:
    path = f"/v1/searches/{fill(store)}/trials"
    assert client.get(path, params={"winner": True}).json() == {"items": [], "next_page_token": None}
    assert len(client.get(path, params={"winner": False}).json()["items"]) == 14
    assert client.get(path, params={"winner": "perhaps"}).status_code == 422
