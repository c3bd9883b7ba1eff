"""Every fault of an order is found before the first trial, with its field, what came and what would do."""

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from automl_prune.errors import SpecError, UserError, WeightsError
from automl_prune.loop.admission import admitted, cached
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NETWORKS
from automl_prune.strategies.base import STRATEGIES

METAPRUNING = {"strategy": {"name": "metapruning"}, "recipe": {"hypernetwork": {"file": "large.pt"}}}


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


def test_an_order_that_was_taken_once_is_not_refused_for_its_few_trials(roots: Roots) -> None:
    few = order(strategy={"name": "evolution", "preset": "published"}, trials={"max": 20})
    with pytest.raises(SpecError, match="Raise it above 50"):
        make_plan(few, roots)
    assert make_plan(few, roots, before={}).make_strategy().ask() is not None


def test_what_is_not_searched_is_said_with_its_reason(roots: Roots) -> None:
    space = {
        "name": "digits_resnet",
        "round_to": 16,
        "frozen": ["layer3.0.conv1"],
        "overrides": [
            {"match": "layer2.*", "round_to": 8, "max_ratio": 0.5},
            {"match": "layer2.0.conv1", "widths": [4, 10]},
        ],
    }
    summary = make_plan(order(search_space=space, budgets=[{"metric": "macs", "max_ratio": 0.9}]), roots).summary()
    groups = {g["name"]: g for g in summary["groups"]}
    assert {n: g["widths"] for n, g in groups.items() if g["searched"]} == {
        "layer2.0.conv1": {"min": 4, "max": 32, "count": 3, "step": None, "list": [4, 10, 32]},
        "layer2.0.conv2": {"min": 8, "max": 32, "count": 3, "step": None, "list": [8, 16, 32]},
        "layer3.0.conv2": {"min": 16, "max": 64, "count": 4, "step": 16},
    }
    assert {n: g["frozen"] for n, g in groups.items() if g["kept_by"] not in (None, "network")} == {
        "layer3.0.conv1": "kept whole by 'layer3.0.conv1' in frozen",
        "conv1": "only its full width is left by round_to 16",
        "layer1.0.conv1": "only its full width is left by round_to 16",
    }
    assert summary["totals"]["frozen_by"] == {"network": 3, "pattern": 1, "granularity": 2}
    assert summary["kept_whole"][0]["groups"] == ["conv1", "layer1.0.conv1"]


def overriding(*overrides: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"search_space": {"name": "digits_resnet", "overrides": list(overrides), **fields}}


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        (overriding({"match": "layer4.*", "round_to": 8}), "/search_space/overrides/0/match", "did you mean 'layer"),
        (overriding({"match": "layer3.*"}), "/search_space/overrides/0", "says nothing"),
        (overriding({"match": "conv1", "widths": [0]}), "/search_space/overrides/0/widths/0", "greater than"),
        (overriding({"match": "conv1", "widths": [8, 17]}), "/search_space/overrides/0/widths/1", "allowed: 1 to 16"),
        (overriding({"match": "conv1", "round_to": 32}), "/search_space/overrides/0/round_to", "leaves nothing to search"),
        (overriding({"match": "linear", "round_to": 2}), "/search_space/overrides/0/match", "linear: network output"),
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
        ({"recipe": {"inherit": "parent", "criterion": "l7"}}, "/recipe/criterion", "No criterion is called 'l7'"),
        (
            {"strategy": {"name": "netadapt", "options": {"initial_reduction": 0.025, "decay": 0.94}}},
            "/strategy/options/initial_reduction",
            "58.33 % of macs are left in the end, and the budget is 50 %. Use 0.03 or more",
        ),
        ({"strategy": {"name": "netadapt"}, "trials": {"max": 5}}, "/trials/max", "more than 5 trials: about 10 iterations"),
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


AT_LEAST, AT_MOST = "greater than or equal to ", "less than or equal to "
OUT_OF_RANGE: dict[str, list[tuple[str, Any, str]]] = {
    "abc": [
        ("population", 1, f"{AT_LEAST}2"), ("cycles", 0, f"{AT_LEAST}1"), ("limit", 0, f"{AT_LEAST}1"),
        ("max_preserve", 11, f"{AT_MOST}10"), ("perturbed", 0, f"{AT_LEAST}1"), ("over_budget", "drop", "'fit' or 'reject'"),
    ],
    "amc": [
        ("tau", 2, f"{AT_MOST}1"), ("tau", 0, "greater than 0"), ("sigma_decay", 1.5, f"{AT_MOST}1"),
        ("sigma", -0.1, f"{AT_LEAST}0"), ("lower_bound", 1.1, f"{AT_MOST}1"), ("gamma", 1.01, f"{AT_MOST}1"),
        ("baseline", -1, f"{AT_LEAST}0"), ("replay", 0, f"{AT_LEAST}1"), ("batch", 0, f"{AT_LEAST}1"),
        ("hidden", 0, f"{AT_LEAST}1"), ("actor_lr", 0, "greater than 0"), ("critic_lr", 2, f"{AT_MOST}1"),
        ("warmup", -1, f"{AT_LEAST}0"), ("episodes", 0, f"{AT_LEAST}1"), ("patience", 0, f"{AT_LEAST}1"),
        ("parallel", 0, f"{AT_LEAST}1"), ("returns", 1.5, f"{AT_MOST}1"), ("updates", -1, f"{AT_LEAST}0"),
        ("reward", "latency", "'constrained', 'accuracy_macs' or 'accuracy_params'"),
    ],
    "auto": [
        ("points", 0, f"{AT_LEAST}1"), ("share", 1.5, f"{AT_MOST}1"), ("confirm", 1.5, f"{AT_MOST}1"),
        ("memory", 5, f"{AT_LEAST}16"), ("spread", 0, "greater than 0"), ("noise", -1, f"{AT_LEAST}0"),
    ],
    "evolution": [
        ("population", 1, f"{AT_LEAST}2"), ("generations", 0, f"{AT_LEAST}1"), ("mutation_rate", 1.5, f"{AT_MOST}1"),
        ("parents", 0, "greater than 0"), ("mutants", 1.1, f"{AT_MOST}1"), ("crossovers", -0.5, f"{AT_LEAST}0"),
        ("draw_from", 1, f"{AT_MOST}0.99"), ("draw_to", 1.5, f"{AT_MOST}1"), ("step", 0, "greater than 0"),
        ("scatter", 4, f"{AT_MOST}3"), ("mutation", "swap", "'resample' or 'step'"),
    ],
    "metapruning": [("population", 1, f"{AT_LEAST}2"), ("mutation_rate", 0, "greater than 0")],
    "netadapt": [
        ("decay", 1.5, f"{AT_MOST}1"), ("decay", 0, "greater than 0"), ("initial_reduction", 1, "less than 1"),
        ("rule", "lowest_loss", "'highest_accuracy' or 'ratio'"), ("schedule", "linear", "'decay' or 'ratio'"),
    ],
    "nsga2": [
        ("population", 1, f"{AT_LEAST}2"), ("crossover_rate", 2, f"{AT_MOST}1"), ("leaders", -1, f"{AT_LEAST}0"),
    ],
    "optuna": [
        ("startup", 0, f"{AT_LEAST}1"), ("population", 3, f"{AT_LEAST}4"), ("memory", 5, f"{AT_LEAST}20"),
        ("sampler", "cma", "'tpe', 'cmaes', 'gp', 'nsgaii', 'qmc' or 'random'"),
    ],
    "random": [("fill", "yes", "valid boolean")],
    "sensitivity": [
        ("share", 0, "greater than 0"), ("points", 0, f"{AT_LEAST}1"), ("points", 257, f"{AT_MOST}256"),
        ("noise", -1, f"{AT_LEAST}0"), ("spread", 6, f"{AT_MOST}5"), ("solver", "greedy", "'knapsack' or 'threshold'"),
    ],
    "uniform": [("ratio", 0.5, "Options of 'uniform': none")],
}  # fmt: skip
"""By strategy: an option, a value that it does not take, and what the refusal says would do."""


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_options_out_of_range_are_named_with_what_came_and_what_would_do(roots: Roots, strategy: str) -> None:
    for option, came, said in OUT_OF_RANGE[strategy]:
        with pytest.raises(SpecError) as caught:
            make_plan(order(strategy={"name": strategy, "options": {option: came}}), roots)
        assert [e.pointer for e in caught.value.errors] == [f"/strategy/options/{option}"]
        assert said in str(caught.value)
        assert f"(came: {came!r})" in str(caught.value)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_all_faulty_options_are_told_at_once(roots: Roots, strategy: str) -> None:
    faults = {option: came for option, came, _ in OUT_OF_RANGE[strategy]} | {"unheard_of": 1}
    with pytest.raises(SpecError) as caught:
        make_plan(order(strategy={"name": strategy, "options": faults}), roots)
    assert {e.pointer for e in caught.value.errors} == {f"/strategy/options/{option}" for option in faults}


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_number_among_the_options_has_limits(strategy: str) -> None:
    """A lower one at least, as more patience or noise is merely useless; and NaN lies within none."""
    for name, option in STRATEGIES.get(strategy).Options.model_json_schema().get("properties", {}).items():
        for kind in option.get("anyOf", [option]):
            if kind.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(kind), name
                with pytest.raises(SpecError) as caught:
                    STRATEGIES.get(strategy).read_options(None, {name: float("nan")})
                assert [e.pointer for e in caught.value.errors] == [f"/strategy/options/{name}"]


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


def test_only_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("automl_prune.loop.admission.MOST_KEPT", 2)
    (tmp_path / "latency-table.json").write_text("not ours")
    for age, name in enumerate(("oldest", "older", "old")):
        file = tmp_path / f"architecture-{name}.json"
        file.write_text("{}")
        os.utime(file, (time.time() - 900 + age,) * 2)
    learned = admitted(NETWORKS.get("digits_resnet"), 10, tmp_path)
    kept = sorted(file.name.partition("_resnet")[0] for file in tmp_path.iterdir())
    assert kept == ["architecture-digits", "architecture-old.json", "latency-table.json"]
    assert cached(NETWORKS.get("digits_resnet"), 10, tmp_path) == learned


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


def test_weights_are_those_that_were_ordered(roots: Roots) -> None:
    """Another file under the same name is refused, also where the first one is only noted when a search is ordered."""
    roots.weights.mkdir()
    file = roots.weights / "first.pt"
    for digit in range(2):
        torch.manual_seed(digit)
        torch.save(NETWORKS.get("digits_resnet").build(10).state_dict(), file)
        if not digit:
            noted = make_plan(order(weights="first.pt"), roots, fetch=False).summary()["weights_sha256"]
            assert noted == hashlib.sha256(file.read_bytes()).hexdigest()
            assert make_plan(order(weights="first.pt", weights_sha256=noted), roots).weights == file
    with pytest.raises(WeightsError, match=f"another file than was ordered.*{noted}") as caught:
        make_plan(order(weights="first.pt", weights_sha256=noted), roots)
    assert caught.value.pointer == "/weights_sha256"
    with pytest.raises(WeightsError, match="of no file"):
        make_plan(order(weights_sha256=noted), roots)


@pytest.mark.parametrize("changes", [{"weights": "large.pt"}, METAPRUNING])
def test_weights_may_not_be_too_large(roots: Roots, changes: dict[str, Any]) -> None:
    roots.weights.mkdir()
    (roots.weights / "large.pt").write_bytes(b"x" * 2_000_001)
    with pytest.raises(WeightsError, match=r"large\.pt' has 2\.0 MB; weight files may have 2\.0") as caught:
        make_plan(order(**changes), replace(roots, most_bytes=2_000_000))
    assert caught.value.pointer == ("/weights" if "weights" in changes else "/recipe/hypernetwork/file")


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
