import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import SpecError
from automl_prune.loop.plan import Plan, make_plan
from automl_prune.loop.spec import SearchSpec
from services.ray_auth import TOKEN_FILE
from services.settings import environment, load_settings
from services.wiring import make_executor, roots, shown_in_ray

ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet"},
    "dataset": {"name": "digits", "select_size": 300},
    "strategy": {"name": "abc"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
}
PARTS_OF_RAY = """
import json, os, psutil
from automl_prune.execution import ActorsExecutor
from services.ray_auth import TOKEN_FILE
from services.settings import load_settings
from services.wiring import cluster
from automl_prune.execution.cluster import current
from services.ray_auth import answers_anybody

with cluster(ActorsExecutor("srch_x", workers=1, cpu=1, gpu=0), load_settings()):
    inherited = {part.name(): part.environ() for part in psutil.Process().children(recursive=True)}
    assert not answers_anybody(current().address)
ours = {name: os.environ[name] for name in ("AUTOML_PRUNE_DATABASE_URL", "AUTOML_PRUNE_KEY")}
print(json.dumps([inherited, ours]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def planned(home: Path, **changes: Any) -> Plan:
    return make_plan(SearchSpec.parse(ORDER | changes), roots(load_settings(home=home)))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "actors"),
        ({"recipe": {"fine_tune": {"steps": 5}}}, "tune"),
        ({"recipe": {"fine_tune": {"epochs": 0.5}}}, "tune"),
        ({"execution": "inline", "recipe": {"fine_tune": {"steps": 5}}}, "inline"),
        ({"execution": "tune"}, "tune"),
    ],
)
def test_auto_takes_tune_where_candidates_train(home: Path, changes: dict[str, Any], kind: str) -> None:
    executor = make_executor(planned(home, **changes), "srch_x", load_settings(home=home))
    assert executor.describe()["kind"] == kind


def test_a_local_ray_gets_no_more_workers_than_it_has_room_for(home: Path) -> None:
    plan = planned(home, trials={"parallel": 16})
    assert make_executor(plan, "srch_x", load_settings(home=home, workers=3)).describe()["workers"] == 3


@pytest.mark.parametrize("changes", [{}, {"recipe": {"fine_tune": {"steps": 5}}}])
def test_machines_are_waited_for_only_where_some_may_come(home: Path, changes: dict[str, Any]) -> None:
    plan = planned(home, **changes)
    settings = load_settings(home=home)
    waits = [settings, load_settings(home=home, ray_address="head:6379"), load_settings(home=home, ray_address="local")]
    executors = [make_executor(plan, "srch_x", each) for each in waits]
    assert [executor.patience for executor in executors] == [0, settings.ray_patience_seconds, 0]  # type: ignore[attr-defined]


def test_parts_of_more_than_one_gpu_are_refused() -> None:
    with pytest.raises(SpecError, match=r"/resources/gpu: .*1\.5"):
        SearchSpec.parse(ORDER | {"resources": {"gpu": 1.5}})


@pytest.mark.slow
def test_a_ray_of_its_own_inherits_no_secret(tmp_path: Path) -> None:
    """In a process of its own, as Ray keeps the first token that it sees."""
    secrets = {"AUTOML_PRUNE_DATABASE_URL": "postgresql://me:hunter2@db/searches", "AUTOML_PRUNE_KEY": "aps_hunter2"}
    told = {"AUTOML_PRUNE_HOME": str(tmp_path), "AUTOML_PRUNE_WORKERS": "1", "AUTOML_PRUNE_RAY_ADDRESS": "local"}
    asked = subprocess.run(
        [sys.executable, "-c", PARTS_OF_RAY],
        env={**os.environ, **secrets, **told},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    inherited, ours = json.loads(asked.stdout)
    assert {"raylet", "gcs_server"} <= inherited.keys()
    assert inherited["raylet"]["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / TOKEN_FILE)
    assert "hunter2" not in str(inherited)
    assert ours == secrets, "others may need it"


def test_ray_is_told_which_search_it_works_for(tmp_path: Path) -> None:
    assert shown_in_ray("srch_x", load_settings(home=tmp_path)) == {"search_id": "srch_x"}
    public = load_settings(home=tmp_path, public_url="https://prune.example/")
    assert shown_in_ray("srch_x", public) == {"search_id": "srch_x", "page": "https://prune.example/searches/srch_x"}
    assert shown_in_ray(None, public) == {}


def test_settings_travel_to_child_processes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=home, workers=3, lease_seconds=7)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
