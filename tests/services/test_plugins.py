"""Plug-ins in a real service over real HTTP: one installed with pip, one allowed by its module name, and broken ones."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example_plugin"

OWN = """
from search_spaces.cifar_resnet import CifarResNet
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.strategies.base import STRATEGIES
from automl_prune.strategies.random import RandomSearch
from automl_prune.surgery.criteria import CRITERIA, Criterion

@CRITERIA.add_instance("largest")
class Largest(Criterion):
    help = "The largest weight."
    def channels(self, rows):
        return rows.abs().amax(dim=1)

@STRATEGIES.register("dice")
class Dice(RandomSearch):
    name, help = "dice", "Random search by another name."

NETWORKS.add("own_net", NetworkDefinition(
    name="own_net", build=lambda classes: CifarResNet(1, classes, in_channels=1, widths=(4, 8, 8)), input_shape=(1, 12, 12),
    num_classes=4, mean=(0.5,), std=(0.3,)))
"""
NAMED = "from automl_prune.networks import NETWORKS, NetworkDefinition\nimport torch\n"
MODULES = {
    "own_module": OWN,
    "raises": NAMED
    + "NETWORKS.add('half_done', NetworkDefinition('half_done', torch.nn.Identity, (1,), 2))\nimport no_such_library\n",
    "takes_a_name": NAMED + "NETWORKS.add('resnet56', NetworkDefinition('resnet56', torch.nn.Identity, (1,), 2))\n",
    "exits": "import sys\nsys.exit('good bye')\n",
    "beyond": "class Beyond(BaseException): pass\nraise Beyond('no ordinary error')\n",
    "nonsense": "from automl_prune.networks import NETWORKS\nNETWORKS.add('nonsense', 42)\n",
}
ORDER: dict[str, Any] = {
    "base_training": {"epochs": 2, "lr": 0.05},
    "dataset": {"name": "stripes", "select_size": 200, "report_size": 200, "batch_size": 64},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "controls": ["uniform"],
    "finish": {"top_k": 1, "epochs": 1},
    "trials": {"max": 3, "parallel": 1},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the example installed, as a user installs it, and some plain modules."""
    folder = tmp_path_factory.mktemp("path")
    copied = tmp_path_factory.mktemp("source") / "example_plugin"  # building writes into the source
    shutil.copytree(EXAMPLE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(copied)], check=True)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def environment(path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOML_PRUNE_")}
    before = [kept["PYTHONPATH"]] if "PYTHONPATH" in kept else []
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(path), *before]),
        "AUTOML_PRUNE_PLUGINS": ", ".join([*MODULES, "not_there"]),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def client(environment: dict[str, str], log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "services.cli", "serve", "--port", "0", "--home", str(home)]
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, timeout=300) as opened:
            yield opened
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def searched(client: httpx.Client, **order: Any) -> dict[str, Any]:
    answer = client.post("/v1/searches", json=ORDER | order)
    assert answer.status_code == 201, answer.text
    search: dict[str, Any] = answer.json()
    deadline = time.monotonic() + 240
    while search["state"] not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, search
        time.sleep(0.1)
        search = client.get(f"/v1/searches/{search['id']}").json()
    assert search["state"] == "succeeded", search["state_reason"]
    best: dict[str, Any] = client.get(f"/v1/searches/{search['id']}/best").json()
    return best


def names(client: httpx.Client, kind: str) -> set[str]:
    return {item["name"] for item in client.get(f"/v1/{kind}").json()["items"]}


def test_an_installed_plugin_is_listed_and_searched(client: httpx.Client) -> None:
    assert "two_branches" in names(client, "search-spaces")
    assert "stripes" in names(client, "datasets")
    best = searched(client, search_space={"name": "two_branches"}, strategy={"name": "random"}, execution="inline")
    assert best["model"] == {"search_space": "two_branches", "input_shape": [1, 12, 12], "num_classes": 4}
    assert best["metrics"]["macs"] <= 0.5 * best["base_metrics"]["macs"]
    assert best["metrics"]["top1"] > 0.7
    assert all(group["width"] % 2 == 0 for group in best["groups"] if not group["frozen"])


@pytest.mark.slow
def test_an_allowed_module_is_searched_on_ray_actors(client: httpx.Client) -> None:
    assert {"dice", "random", "abc"} <= names(client, "strategies")
    best = searched(
        client,
        search_space={"name": "own_net"},
        strategy={"name": "dice"},
        recipe={"inherit": "largest"},
        execution="actors",
    )
    assert best["provenance"]["recipe"]["inherit"] == "largest"
    assert best["metrics"]["macs"] <= 0.5 * best["base_metrics"]["macs"]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raises", "ModuleNotFoundError: No module named 'no_such_library'"),
        (
            "takes_a_name",
            "ValueError: A search space called 'resnet56' is already registered, by search_spaces.cifar_resnet.",
        ),
        ("exits", "SystemExit: good bye"),
        ("beyond", "Beyond: no ordinary error"),
        ("not_there", "ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_broken_plugin_is_named_with_its_reason(client: httpx.Client, log: Path, module: str, said: str) -> None:
    found = {p["name"]: p for p in client.get("/v1/plugins").json()["items"]}
    assert found[module] == {"name": module, "source": "allowed", "module": module, "state": "failed", "error": said}
    assert f"plug-in {module!r} (allowed) is left out, with all it registers: {said}" in log.read_text()
    assert found["own_module"]["state"] == "loaded"


def test_installed_plugins_say_where_they_come_from(client: httpx.Client) -> None:
    found = [p for p in client.get("/v1/plugins").json()["items"] if p["module"] == "example_plugin"]
    groups = {f"entry point automl_prune.{group} of example-plugin" for group in ("search_spaces", "datasets")}
    assert {p["source"] for p in found} == groups
    assert {p["state"] for p in found} == {"loaded"}


def test_the_server_lists_what_is_sound(client: httpx.Client) -> None:
    found = names(client, "search-spaces")
    assert {"resnet56", "own_net", "two_branches", "resnet50"} <= found
    assert not {"half_done", "nonsense"} & found
    refused = client.post("/v1/searches", json=ORDER | {"search_space": {"name": "half_done"}, "strategy": {"name": "abc"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/search_space/name"
    assert client.get("/readyz").status_code == 200


def test_no_request_imports_a_module(client: httpx.Client) -> None:
    order = ORDER | {"search_space": {"name": "antigravity:fly"}, "strategy": {"name": "abc"}}
    assert client.post("/v1/searches", json=order).json()["errors"][0]["code"] == "unknown_name"


def test_the_command_line_warns_on_stderr(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "spaces", "--json"]
    made = environment | {"AUTOML_PRUNE_HOME": str(tmp_path), "AUTOML_PRUNE_PLUGINS": "own_module,raises"}
    done = subprocess.run(command, env=made, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"own_net"' in done.stdout
    assert re.fullmatch(r"plug-in 'raises' \(allowed\) is left out, .*'no_such_library'\n", done.stderr)


def test_the_setting_takes_module_names_alone(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "services.cli", "spaces"]
    made = environment | {"AUTOML_PRUNE_PLUGINS": "../evil.py"}
    done = subprocess.run(command, env=made, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "AUTOML_PRUNE_PLUGINS" in done.stderr
    assert "Traceback" not in done.stderr
