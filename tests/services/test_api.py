import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from automl_prune.loop.job import Artifact, SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.pareto import non_dominated
from automl_prune.space import Candidate
from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.sql import SqlStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import Outcome, Trial, TrialState
from services.api.app import create_app
from services.api.context import Review
from services.settings import Settings, load_settings

Order = Callable[..., dict[str, Any]]
Fill = Callable[[Store], str]

JSON_TYPES: dict[str, Any] = {
    "integer": int, "number": (int, float), "string": str, "boolean": bool, "array": list, "null": type(None),
}  # fmt: skip


def test_an_order_becomes_a_queued_search(client: TestClient, store: SqlStore, order: Order) -> None:
    response = client.post("/v1/searches", json=order(labels={"team": "edge"}))
    body = response.json()
    assert (response.status_code, response.headers["location"]) == (201, f"/v1/searches/{body['id']}")
    assert (body["state"], body["name"], body["labels"], body["attempt"]) == ("queued", "toy search", {"team": "edge"}, 0)
    assert (body["best"], body["controls"], body["started_at"], body["result_ready"]) == (None, {}, None, False)
    assert body["progress"]["ended"] == 0
    assert body["spec"]["finish"]["recovery"] == "fine_tune"
    shown = client.get(response.headers["location"]).json()
    assert shown == body | {"state_reason": "queued: next; no launcher has been seen"}
    assert store.get_search(body["id"]).spec == body["spec"]


def test_links_are_absolute_when_the_address_is_known(store: SqlStore, tmp_path: Path, review: Review, order: Order) -> None:
    settings = load_settings(home=tmp_path, public_url="https://prune.example/")
    _, token = ApiKeys(store.database).create("test")
    client = TestClient(create_app(store, settings, review), base_url="http://127.0.0.1", headers={"X-API-Key": token})
    response = client.post("/v1/searches", json=order())
    assert response.headers["location"] == response.json()["links"]["self"]
    assert response.json()["links"]["page"].startswith("https://prune.example/searches/srch_")


def test_validate_answers_what_the_review_says_and_stores_nothing(client: TestClient, order: Order) -> None:
    body = client.post("/v1/searches:validate", json=order()).json()
    assert (body["groups"], body["evaluations"]) == (2, 24)
    assert body["budgets"][0]["max"] == body["base"]["macs"] / 2
    assert client.get("/v1/searches").json() == {"items": [], "next_page_token": None}


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"search_space": {"name": "toi"}}, "unknown_name", "/search_space/name"),
        ({"budgets": [{"metric": "macs", "max": 5}]}, "unreachable_budget", "/budgets/0"),
        ({"trails": {"max": 5}}, "extra_forbidden", "/trails"),
        ({"trials": {"max": 0}}, "greater_than_equal", "/trials/max"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(
    client: TestClient, order: Order, changes: dict[str, Any], code: str, pointer: str
) -> None:
    for path in ("/v1/searches", "/v1/searches:validate"):
        response = client.post(path, json=order(**changes))
        assert response.status_code == 422
        error = response.json()["errors"][0]
        assert (error["code"], error["pointer"]) == (code, pointer)
        assert len(error["detail"]) > 10
    assert client.get("/v1/searches").json()["items"] == []


def test_searches_are_listed_newest_first_in_pages(client: TestClient, order: Order) -> None:
    ids = [client.post("/v1/searches", json=order(name=f"number {i}")).json()["id"] for i in range(5)]
    found, token = [], ""
    for expected in (2, 2, 1):
        page = client.get("/v1/searches", params={"limit": 2} | ({"page_token": token} if token else {})).json()
        assert len(page["items"]) == expected
        found += [item["id"] for item in page["items"]]
        token = page["next_page_token"]
    assert found == ids[::-1]
    assert token is None


def test_searches_are_filtered(client: TestClient, order: Order, fill: Fill, store: SqlStore) -> None:
    running, abc = fill(store), {"name": "abc", "options": {"population": 3}}
    queued = client.post("/v1/searches", json=order(strategy=abc, labels={"team": "a:b"})).json()["id"]

    def ids(query: str) -> list[str]:
        return [item["id"] for item in client.get(f"/v1/searches?{query}").json()["items"]]

    assert ids("state=running") == [running]
    assert ids("state=running&state=queued") == [queued, running]
    assert ids("strategy=abc") == [queued]
    assert ids("label=team:a:b") == [queued]
    assert ids("label=team:edge&state=queued") == []


def test_a_search_tells_how_far_it_is_and_how_well_it_does(client: TestClient, store: SqlStore, fill: Fill) -> None:
    body = client.get(f"/v1/searches/{fill(store)}").json()
    assert body["state"] == "running"
    assert {k: body["progress"][k] for k in ("completed", "failed", "running", "slots", "ended", "total")} == {
        "completed": 11,
        "failed": 1,
        "running": 0,
        "slots": 2,
        "ended": 12,
        "total": 24,
    }
    assert body["progress"]["arms"]["search"] == {"complete": 7, "failed": 1, "pending": 1}
    trials = client.get(f"{body['links']['trials']}?arm=search&state=complete").json()["items"]
    limit = body["info"]["budgets"][0]["max"]
    within = [t["metrics"]["top1"] for t in trials if t["metrics"]["macs"] <= limit]
    assert body["best"]["metrics"]["top1"] == max(within)
    assert set(body["controls"]) == {"uniform", "random"}
    assert body["controls"]["uniform"]["arm"] == "uniform"
    assert body["base"] == {
        **body["info"]["base"],
        "top1": client.get(f"{body['links']['trials']}/13").json()["metrics"]["top1"],
    }
    assert body["links"]["ray_dashboard"] == "http://127.0.0.1:8265"


def test_the_best_so_far_follows_new_trials(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    before = client.get(path).json()["best"]
    job = store.get_search(path.rsplit("/", 1)[1])
    metrics = {"top1": 0.99, "macs": job.info["budgets"][0]["max"]}
    store.record_outcome(job.id, job.attempt, 12, Outcome(TrialState.COMPLETE, metrics))
    after = client.get(path).json()["best"]
    assert before["number"] != after["number"] == 12
    assert client.get("/v1/searches").json()["items"][0]["best"] == after


def test_a_candidate_over_budget_is_never_the_best(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    job = store.get_search(path.rsplit("/", 1)[1])
    metrics = {"top1": 0.99, "macs": job.info["budgets"][0]["max"] + 1}
    store.record_outcome(job.id, job.attempt, 12, Outcome(TrialState.COMPLETE, metrics))
    assert client.get(path).json()["best"]["number"] != 12


def test_trials_are_paged_and_named_by_group(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}/trials"
    first = client.get(path, params={"limit": 10}).json()
    rest = client.get(path, params={"limit": 10, "page_token": first["next_page_token"]}).json()
    assert [t["number"] for t in first["items"] + rest["items"]] == list(range(14))
    assert rest["next_page_token"] is None
    failed = client.get(f"{path}?state=failed").json()["items"]
    assert [(t["number"], t["reason"]) for t in failed] == [(3, "The loss was NaN <script>alert(1)</script>.")]
    one = client.get(f"{path}/0").json()
    assert one == first["items"][0]
    assert (one["name"], one["arm"], one["origin"], one["cost"]) == (
        "trial-0000",
        "search",
        {"why": "toy"},
        {"seconds": 1.5},
    )
    assert set(one["widths"]) == {"conv1", "conv2"}
    assert client.get(f"{path}/14").status_code == 404


def test_the_front_holds_what_no_other_trial_beats(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    body = client.get(f"{path}/pareto").json()
    assert body["objective"] == {"metric": "top1", "maximize": True}
    assert body["cost"] == {"metric": "macs"}
    front = [(t["metrics"]["macs"], t["metrics"]["top1"]) for t in body["items"]]
    assert front == sorted(front)
    complete = client.get(f"{path}/trials?arm=search&state=complete").json()["items"]
    for trial in complete:
        macs, top1 = trial["metrics"]["macs"], trial["metrics"]["top1"]
        assert any(m <= macs and t >= top1 for m, t in front)
    assert {len(body["controls"]["uniform"]), len(complete) >= len(front) > 0} == {1}
    assert {t["arm"] for t in body["controls"]["random"]} == {"random"}


def test_a_front_may_be_over_several_costs(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    body = client.get(f"{path}/pareto?cost=params&cost=macs&cost=params").json()
    assert (body["cost"], body["costs"]) == ({"metric": "params"}, [{"metric": "params"}, {"metric": "macs"}])
    complete = client.get(f"{path}/trials?arm=search&state=complete").json()["items"]
    losses = [(-t["metrics"]["top1"], t["metrics"]["params"], t["metrics"]["macs"]) for t in complete]
    stays = non_dominated(losses)
    assert {t["number"] for t in body["items"]} == {t["number"] for t, kept in zip(complete, stays, strict=True) if kept}
    asked = client.get(f"{path}/pareto?cost=macs&cost=latency_ms@pi4")
    (fault,) = asked.json()["errors"]
    assert (asked.status_code, fault["pointer"], fault["code"]) == (422, "/query/cost/1", "unknown_name")
    assert "known: activation_mb, flops, macs, memory_mb, params" in fault["detail"]


def test_a_front_under_a_latency_budget_is_over_the_latency_of_its_device(
    client: TestClient, store: SqlStore, order: Order
) -> None:
    budgets = [{"metric": "latency_ms", "max": 3.5, "device": "pi4"}, {"metric": "latency_ms", "max": 9}]
    spec = SearchSpec.parse(order(budgets=budgets)).model_dump(mode="json")
    search = store.add_search(spec, name=None, labels={}).id
    claimed = store.claim(lease_seconds=600)
    assert claimed is not None
    for number, (top1, pi4, local) in enumerate([(0.8, 2.0, 5.0), (0.7, 3.0, 4.0), (0.6, 3.5, 6.0)]):
        store.record_ask(search, claimed.attempt, Trial(number, Candidate((4, 4))))
        metrics = {"top1": top1, "macs": 9.0, "latency_ms@pi4": pi4, "latency_ms@local": local}
        store.record_outcome(search, claimed.attempt, number, Outcome(TrialState.COMPLETE, metrics))
    body = client.get(f"/v1/searches/{search}/pareto").json()
    assert body["cost"] == {"metric": "latency_ms@pi4"}
    assert [t["number"] for t in body["items"]] == [0]
    body = client.get(f"/v1/searches/{search}/pareto?cost=latency_ms@local").json()
    assert [t["number"] for t in body["items"]] == [1, 0]


def test_a_front_of_nothing_is_empty(client: TestClient, order: Order) -> None:
    path = client.post("/v1/searches", json=order()).json()["links"]["pareto"]
    body = client.get(path).json()
    assert (body["items"], body["controls"]) == ([], {"uniform": [], "random": [], "global": []})


def test_best_is_the_result_once_there_is_one(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}"
    early = client.get(f"{path}/best")
    assert (early.status_code, early.json()["code"]) == (409, "state_conflict")
    job = store.get_search(path.rsplit("/", 1)[1])
    result = {"schema_version": 1, "channels": {"conv1": 8}, "metrics": {"top1": 0.8}}
    store.set_state(job.id, job.attempt, SearchState.SUCCEEDED, result=result)
    assert client.get(f"{path}/best").json() == result
    assert client.get(path).json()["result_ready"] is True


def test_cancelling(client: TestClient, store: SqlStore, fill: Fill, order: Order) -> None:
    queued = client.post("/v1/searches", json=order()).json()["links"]["self"]
    response = client.post(f"{queued}:cancel")
    assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    again = client.post(f"{queued}:cancel")
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")
    running = fill(store)
    response = client.post(f"/v1/searches/{running}:cancel")
    assert (response.status_code, response.json()["state"]) == (202, "running")
    assert response.json()["cancel_requested"] is True
    assert "will have none" in client.get(f"{queued}/best").json()["detail"]


def test_files_are_downloaded_as_files(client: TestClient, store: SqlStore, fill: Fill) -> None:
    path = f"/v1/searches/{fill(store)}/artifacts"
    (item,) = client.get(path).json()["items"]
    response = client.get(item["href"])
    digest = hashlib.sha256(response.content).digest()
    assert (item["name"], item["size"], item["sha256"]) == ("model.safetensors", len(response.content), digest.hex())
    assert response.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"


def test_only_recorded_files_below_the_folder_are_served(
    client: TestClient, store: SqlStore, fill: Fill, settings: Settings, tmp_path: Path
) -> None:
    job_id = fill(store)
    attempt = store.get_search(job_id).attempt
    folder = settings.artifacts_root / job_id
    (tmp_path / "secret").write_text("treasure")
    (folder / "unrecorded").write_text("treasure")
    (folder / "link").symlink_to(tmp_path / "secret")
    for name in ("link", "gone", "../../secret", "..", str(tmp_path / "secret")):
        store.add_artifact(job_id, attempt, Artifact(name, 6, "00" * 32))
    names = ["unrecorded", "link", "gone", "..%2F..%2Fsecret", "%2e%2e", "../../secret", "%00", f"{tmp_path}/secret"]
    for name in names:
        response = client.get(f"/v1/searches/{job_id}/artifacts/{name}")
        assert response.status_code == 404, name
        assert "treasure" not in response.text


def test_everything_that_can_be_named_is_listed(client: TestClient) -> None:
    listed = {}
    for kind in ("strategies", "search-spaces", "criteria", "datasets"):
        listed[kind] = {item["name"]: item for item in client.get(f"/v1/{kind}").json()["items"]}
        assert all(item["help"] for item in listed[kind].values()), kind
    assert listed["strategies"]["random"]["options"]["type"] == "object"
    assert listed["strategies"]["random"]["default_preset"] in listed["strategies"]["random"]["presets"]
    assert listed["search-spaces"]["resnet56"]["input_shape"] == [3, 32, 32]
    assert "default" in listed["search-spaces"]["resnet56"]["presets"]
    assert {"l1", "fpgm"} <= set(listed["criteria"])
    assert {"cifar10", "digits"} <= set(listed["datasets"])


def test_every_strategy_is_listed_with_its_paper_and_what_its_options_mean(client: TestClient) -> None:
    listed = {item["name"]: item for item in client.get("/v1/strategies").json()["items"]}
    assert set(listed) == set(STRATEGIES)
    for name, item in listed.items():
        assert len(item["paper"]) > 10, name
        assert item["default_preset"] in item["presets"], name
        assert set(item["default_recipe"]) <= set(item["presets"]), name
        described = item["options"].get("properties", {})
        assert set(described) == set(STRATEGIES.get(name).Options.model_fields)
        for option, told in described.items():
            kinds = told.get("anyOf", [told])
            assert all(kind["type"] in JSON_TYPES for kind in kinds), (name, option)
            assert len(told["description"]) > 10, (name, option)
            assert told["default"] is None or any(isinstance(told["default"], JSON_TYPES[k["type"]]) for k in kinds)
            assert told["default"] is not None or {"type": "null"} in kinds, (name, option)
        for preset, values in item["presets"].items():
            assert set(values) <= set(described), (name, preset)


def test_probes_and_version(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert {"version", "api", "python", "torch"} <= set(client.get("/version").json())


def test_the_api_describes_itself(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"SearchSpec", "BudgetSpec", "Problem"} <= set(schemas)
    for path, verbs in document["paths"].items():
        for operation in verbs.values():
            assert operation["description"], path
            assert "default" in operation["responses"], path
    order = document["paths"]["/v1/searches"]["post"]["requestBody"]["content"]["application/json"]
    assert order["schema"] == {"$ref": "#/components/schemas/SearchSpec"}
    references = [part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]]
    assert set(references) <= set(schemas)


def test_pages_may_only_load_what_is_ours(client: TestClient) -> None:
    for path in ("/", "/searches/srch_1", "/docs"):
        response = client.get(path)
        assert response.headers["content-type"].startswith("text/html")
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "<script>" not in response.text
        assert "http://" not in response.text.replace("http://www.w3.org", "")
    assert client.get("/v1/searches").headers["cache-control"] == "no-store"


def test_a_foreign_host_is_turned_away(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8422", "[::1", ""):
        answer = client.get("/v1/searches", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request"), host
    assert client.get("/v1/searches", headers={"Host": "localhost:8422"}).status_code == 200


def test_a_malformed_origin_is_another_site(client: TestClient) -> None:
    assert client.post("/v1/searches:validate", json={}, headers={"Origin": "http://[::1"}).status_code == 403


def test_the_interface_need_not_be_shown(store: SqlStore, settings: Settings, review: Review) -> None:
    for docs, status in ((True, 200), (False, 404)):
        app = create_app(store, settings.model_copy(update={"docs": docs}), review)
        with TestClient(app, base_url="http://127.0.0.1") as client:
            assert client.get("/docs").status_code == status
            assert client.get("/openapi.json").status_code == 200
            assert client.get("/").status_code == 200
