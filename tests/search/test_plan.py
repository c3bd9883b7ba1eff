"""Every fault of an order is found before the first trial, with its field, what came and what would do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from automl_prune.errors import UserError
from automl_prune.networks import NETWORKS
from automl_prune.search.plan import Roots, admitted, make_plan
from automl_prune.search.spec import SearchSpec


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def roots(tmp_path: Path, cache: Path) -> Roots:
    return Roots(data=tmp_path / "data", weights=tmp_path / "weights", cache=cache)


def order(**changes: Any) -> SearchSpec:
    return SearchSpec.parse(
        {
            "search_space": {"name": "digits_resnet"},
            "dataset": {"name": "digits", "select_size": 300},
            "strategy": {"name": "abc"},
            "budgets": [{"metric": "macs", "max_ratio": 0.5}],
        }
        | changes
    )


def test_the_summary_says_what_will_be_searched(roots: Roots) -> None:
    plan = make_plan(order(), roots)
    summary = json.loads(json.dumps(plan.summary(), allow_nan=False))
    assert summary["base"]["macs"] == 747_136
    assert summary["budgets"] == [{"metric": "macs", "max": 373_568.0, "min": None}]
    assert summary["evaluations"] == 201
    assert {g["name"] for g in summary["groups"] if g["frozen"]} == {"padding", "input", "linear"}
    assert summary["uniform"]["macs"] <= 373_568
    assert summary["recipe"]["inherit"] == "l1"
    assert summary["splits"]["select"]["size"] == 300


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"search_space": {"name": "resnet57"}}, "/search_space/name", "did you mean 'resnet56'"),
        ({"search_space": {"name": "digits_resnet", "preset": "x"}}, "/search_space/preset", "known: default"),
        ({"search_space": {"name": "digits_resnet", "frozen": ["layer7*"]}}, "/search_space/frozen/0", "layer7"),
        ({"search_space": {"name": "digits_resnet", "frozen": ["*"]}}, "/search_space", "No group is left"),
        ({"search_space": {"name": "digits_resnet", "num_classes": 5}}, "/search_space/num_classes", "5 classes"),
        ({"dataset": {"name": "digit"}}, "/dataset/name", "did you mean 'digits'"),
        ({"dataset": {"name": "digits", "select_size": 5000}}, "/dataset/select_size", "select_size is 5,000"),
        ({"dataset": {"name": "digits", "select_size": 300, "root": "../.."}}, "/dataset/root", "not below"),
        ({"dataset": {"name": "cifar10"}, "search_space": {"name": "resnet20"}}, "/dataset/root", "cifar"),
        ({"strategy": {"name": "abd"}}, "/strategy/name", "did you mean 'abc'"),
        ({"strategy": {"name": "abc", "options": {"bees": 3}}}, "/strategy/options/bees", "population"),
        ({"recipe": {"inherit": "l7"}}, "/recipe/inherit", "No criterion is called 'l7'"),
        ({"recipe": {"recalibrate_batches": -1}}, "/recipe/recalibrate_batches", "greater than or equal"),
        ({"budgets": [{"metric": "watts", "max": 1}]}, "/budgets/0/metric", "No budget metric is called 'watts'"),
        ({"budgets": [{"metric": "macs", "max": 10}]}, "/budgets/0", "the narrowest network of this space"),
        ({"budgets": [{"metric": "macs", "min": 1e12}]}, "/budgets/0", "the full network costs 747,136"),
        ({"budgets": [{"metric": "macs", "max_ratio": 0.5, "device": "pi"}]}, "/budgets/0/device", "leave device out"),
        ({"weights": "missing.pt"}, "/weights", "missing.pt"),
        ({"weights": "../secret.pt"}, "/weights", ""),
    ],
)
def test_faults_name_their_field(roots: Roots, changes: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(order(**changes), roots)
    pointers = [e.pointer for e in getattr(caught.value, "errors", ())] or [caught.value.pointer]
    assert pointers == [pointer]
    assert said in str(caught.value)


def test_weights_of_another_network_name_the_tensors(roots: Roots) -> None:
    roots.weights.mkdir()
    torch.save(NETWORKS.get("resnet20").build(10).state_dict(), roots.weights / "resnet20.pt")
    with pytest.raises(UserError, match=r"conv1\.weight") as caught:
        make_plan(order(weights="resnet20.pt"), roots)
    assert caught.value.pointer == "/weights"


def test_a_corrupt_file_is_refused(roots: Roots) -> None:
    roots.weights.mkdir()
    (roots.weights / "broken.pt").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match=r"broken\.pt") as caught:
        make_plan(order(weights="broken.pt"), roots)
    assert caught.value.pointer == "/weights"


def test_a_network_is_admitted_once(roots: Roots) -> None:
    network = NETWORKS.get("digits_resnet")
    first = admitted(network, 10, roots.cache)
    files = {f: f.stat().st_mtime_ns for f in roots.cache.glob("architecture-digits_resnet-*.json")}
    assert len(files) == 1
    assert admitted(network, 10, roots.cache) == first
    assert {f: f.stat().st_mtime_ns for f in files} == files


def test_a_damaged_cache_is_made_anew(roots: Roots) -> None:
    network = NETWORKS.get("digits_resnet")
    first = admitted(network, 10, roots.cache)
    for file in roots.cache.glob("architecture-digits_resnet-*.json"):
        file.write_text("{")
    assert admitted(network, 10, roots.cache) == first


def test_a_file_that_holds_itself_is_refused(roots: Roots) -> None:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    roots.weights.mkdir()
    torch.save(content, roots.weights / "cyclic.pt")
    with pytest.raises(UserError, match=r"cyclic\.pt is no state dict"):
        make_plan(order(weights="cyclic.pt"), roots)


def test_weights_that_are_not_finite_are_refused(roots: Roots) -> None:
    state = NETWORKS.get("digits_resnet").build(10).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    roots.weights.mkdir()
    torch.save(state, roots.weights / "nan.pt")
    with pytest.raises(UserError, match=r"NaN or infinity: 1 tensors \(layer1\.0\.conv1\.weight\)"):
        make_plan(order(weights="nan.pt"), roots)


def test_a_folder_name_too_long_for_the_file_system_is_refused(roots: Roots) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(order(dataset={"name": "cifar10", "root": "a" * 300}, search_space={"name": "resnet20"}), roots)
    assert caught.value.pointer == "/dataset/root"
