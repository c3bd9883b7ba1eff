"""What a space is, told by the command line without a server and by the service over HTTP: the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from typer.testing import CliRunner

from automl_prune.registry import Registry
from automl_prune.strategies.base import STRATEGIES, Strategy
from automl_prune.strategies.random import RandomSearch
from services.api.catalog import catalog
from services.api.context import Review
from services.cli.app import app as commands
from services.cli.spaces import show_groups, widths
from services.cli.text import console
from services.settings import PREFIX, Settings
from services.wiring import reviewer

SLOW_ON_POSTGRESQL = True

Call = Callable[..., Any]
Serve = Callable[[FastAPI], str]

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 100},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.9}],
}


@pytest.fixture
def review(settings: Settings) -> Review:
    """The one that really traces, where the toy of the other tests would be."""
    return reviewer(settings)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs a command and checks its exit code; what it learns of networks stays for the other tests."""
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}CACHE_DIR", str(tmp_path_factory.getbasetemp() / "described"))

    def run(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(commands, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


def described(call: Call, *options: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("spaces", "--describe", "digits_resnet", *options, "--json").stdout)
    return found


def test_a_space_is_described(call: Call) -> None:
    found = described(call)
    groups = {g["name"]: g for g in found["groups"]}
    assert groups["layer1.0.conv1"] == {
        "name": "layer1.0.conv1",
        "width": 16,
        "full_width": 16,
        "widths": {"min": 1, "max": 16, "count": 16, "step": 1},
        "choices": 16,
        "narrowest": 1,
        "divisor": 1,
        "members": ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2"],
        "producers": ["layer1.0.conv1"],
        "searched": True,
        "frozen": None,
        "kept_by": None,
    }
    assert groups["linear"]["frozen"] == "network output"
    assert (found["name"], found["num_classes"], found["base"]["macs"]) == ("digits_resnet", 10, 747136)
    assert described(call, "--num-classes", 20)["base"]["params"] > found["base"]["params"]


def test_the_service_says_the_same_over_http(call: Call, app: FastAPI, serve: Serve) -> None:
    here = described(call, "--round-to", 8, "--min-ratio", 0.3, "--frozen", "conv1")
    space = ORDER["search_space"] | {"min_ratio": 0.3, "frozen": ["conv1"]}
    answer = httpx.post(f"{serve(app)}/v1/searches:validate", json=ORDER | {"search_space": space}, timeout=60)
    assert answer.status_code == 200, answer.text
    there = answer.json()
    assert {name: there[name] for name in there.keys() & here.keys()} == {
        name: value for name, value in here.items() if name not in ("name", "input_shape", "num_classes")
    }
    assert {"budgets", "evaluations", "uniform", "log10_size", "base", "groups"} <= there.keys()


@pytest.mark.parametrize(
    ("overrides", "pointer", "said"),
    [
        (
            [{"match": "layer9.*", "round_to": 8}],
            "/search_space/overrides/0/match",
            "No group or layer is called 'layer9.*'",
        ),
        ([{"match": "conv1", "widths": [4, 17]}], "/search_space/overrides/0/widths/1", "allowed: 1 to 16"),
        ([{"match": "conv1", "min_ratio": 0.9, "max_ratio": 0.5}], "/search_space/overrides/0/max_ratio", "at most 0.5"),
        ([{"match": "*", "round": 8}], "/search_space/overrides/0/round", "Extra inputs"),
    ],
)
def test_faulty_overrides_are_refused_over_http(
    app: FastAPI, serve: Serve, overrides: list[dict[str, Any]], pointer: str, said: str
) -> None:
    order = ORDER | {"search_space": {"name": "digits_resnet", "overrides": overrides}}
    answer = httpx.post(f"{serve(app)}/v1/searches:validate", json=order, timeout=60)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"]


def test_people_read_groups_and_reasons(call: Call) -> None:
    shown = call("spaces", "--describe", "digits_resnet", "--round-to", 16).stdout
    assert re.search(r"^layer3\.0\.conv1 +64 +16–64 by 16 +4 +1 +layer3\.0\.conv1 ", shown, re.MULTILINE)
    assert re.search(r"^groups +4 searched, 5 kept whole", shown, re.MULTILINE)
    assert re.search(r"^not searched +2: only its full width is left by round_to 16 \(conv1 layer1\.0\.conv1\)", shown, re.M)
    assert re.search(r"^macs +747 k +\d", shown, re.MULTILINE)
    everything = call("spaces", "--describe", "digits_resnet", "--round-to", 16, "--all").stdout
    assert re.search(r"^conv1 +16 +only its full width is left by round_to 16", everything, re.MULTILINE)


def test_validating_shows_the_reasons_and_all_groups_on_demand(
    call: Call, app: FastAPI, serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "order.yaml"
    overrides = [{"match": "layer3.*", "round_to": 32}, {"match": "layer2.0.conv1", "widths": [8, 21]}]
    file.write_text(yaml.safe_dump(ORDER | {"search_space": {"name": "digits_resnet", "overrides": overrides}}))
    server = serve(app)
    brief = call("validate", file, "--server", server).stdout
    assert re.search(r"^groups +6 searched, 3 kept whole", brief, re.MULTILINE)
    assert re.search(r"^not searched +1: network output \(linear\)", brief, re.MULTILINE)
    everything = call("validate", file, "--all", "--server", server).stdout
    assert re.search(r"^layer3\.0\.conv2 +64 +32–64 by 32 +2 +1 ", everything, re.MULTILINE)
    assert re.search(r"^layer2\.0\.conv1 +32 +8 21 32 +3 +1 ", everything, re.MULTILINE)
    assert everything.endswith(brief)


def test_a_space_with_nothing_to_search_is_described_too(call: Call) -> None:
    found = described(call, "--round-to", 1024)
    assert found["totals"] == {
        "groups": 9,
        "searched": 0,
        "frozen": 9,
        "frozen_by": {"network": 3, "pattern": 0, "granularity": 6},
    }
    assert "0 searched, 9 kept whole" in call("spaces", "--describe", "digits_resnet", "--round-to", 1024).stdout


def test_what_cannot_be_described_ends_with_2(call: Call) -> None:
    assert "did you mean 'digits_resnet'" in call("spaces", "--describe", "digit_resnet", code=2).stderr
    for options, said in [
        (("--preset", "publishd"), "field /search_space/preset: No preset of digits_resnet is called 'publishd'"),
        (("--round-to", 0), "field /search_space/round_to: "),
        (("--min-ratio", 2), "field /search_space/min_ratio: "),
        (("--num-classes", 1), "field /search_space/num_classes: "),
        (("--frozen", "conf1"), "field /search_space/frozen/0: No group or layer is called 'conf1'; did you mean 'conv1'"),
    ]:
        assert said in call("spaces", "--describe", "digits_resnet", *options, code=2).stderr
    assert "--round-to changes what is described" in call("spaces", "--round-to", 8, code=2).stderr


def test_groups_of_a_large_network_keep_to_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    group = {
        "width": 8,
        "widths": {"min": 1, "max": 8, "count": 8, "step": 1},
        "choices": 8,
        "divisor": 1,
        "producers": ["a" * 60],
        "members": ["a" * 60, "b" * 60, "c" * 60, "d" * 60],
        "searched": True,
    }
    many = {"groups": [group | {"name": f"group{i}"} for i in range(200)]}
    show_groups(many, console(), everything=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 201
    assert lines[200].split() == ["group199", "8", "1–8", "8", "1", "1", "3"]
    show_groups(many, console(), everything=True)
    assert "b" * 60 in capsys.readouterr().out


def test_long_lists_of_widths_are_shortened() -> None:
    shown = widths({"widths": {"min": 1, "max": 40, "count": 10, "step": None, "list": [*range(1, 10), 40]}})
    assert shown == "1 2 3 4 5 … 9 40"


def test_strategies_are_listed_with_what_they_were_published_with() -> None:
    listed = {item["name"]: item for item in catalog()["strategies"]["items"]}
    assert sorted(listed) == sorted(STRATEGIES)
    assert listed["metapruning"]["default_recipe"]["published"]["hypernetwork"]["epochs"] == 64
    assert listed["metapruning"]["default_finish"]["published"]["recovery"] == "scratch"
    assert listed["auto"]["default_finish"] == {}


def test_what_cannot_be_described_is_left_out_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(RandomSearch):
        presets = {"odd": 3}  # type: ignore[dict-item]

    registry: Registry[type[Strategy]] = Registry("strategy")
    registry.add("odd", Odd)
    registry.add("random", RandomSearch)
    monkeypatch.setattr("services.api.catalog.STRATEGIES", registry)
    assert [item["name"] for item in catalog()["strategies"]["items"]] == ["random"]
    assert "the strategy 'odd' is not listed: TypeError" in caplog.text


def test_presets_are_listed_with_their_overrides() -> None:
    spaces = {item["name"]: item for item in catalog()["search-spaces"]["items"]}
    assert spaces["resnet56"]["presets"]["published"]["overrides"] == []
