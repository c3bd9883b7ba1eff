"""The launcher by itself: does it say how it is, and does it wait for a cluster that is away?"""

import logging
import os
import re
import socket
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.app import app
from services.launcher import cluster
from services.launcher.cluster import Cluster
from services.launcher.liveness import Mark, launchers
from services.settings import load_settings
from tests.services.ports import kept_port


def check(home: Path) -> Result:
    return CliRunner().invoke(app, ["launch", "--home", str(home), "--check"])


def test_a_launcher_is_well_while_it_leaves_marks(tmp_path: Path) -> None:
    assert (check(tmp_path).exit_code, check(tmp_path).output) == (1, "No launcher runs here.\n")
    mark = Mark(load_settings(home=tmp_path))
    mark.renew()
    assert check(tmp_path).exit_code == 0
    (file,) = (tmp_path / "launchers").iterdir()
    os.utime(file, (time.time() - 90, time.time() - 90))
    stuck = check(tmp_path)
    assert stuck.exit_code == 1
    assert re.search(r"\b(9\d|1\d\d) seconds ago", stuck.output)
    mark.remove()
    assert check(tmp_path).exit_code == 1


def test_a_mark_says_how_its_launcher_is(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert launchers(settings) == []
    Mark(settings).renew(slots=3, taken=1, trouble="no local Ray started")
    (tmp_path / "launchers" / "without-words").touch()
    (tmp_path / "launchers" / "of-tomorrow").write_text('{"slots": 9, "mood": "good"}')
    other, _, mine = sorted(launchers(settings), key=lambda seen: seen.slots)
    assert (mine.works, mine.slots, mine.taken, mine.trouble) == (True, 3, 1, "no local Ray started")
    assert (other.works, other.slots, other.trouble) == (True, 1, None)


def test_launchers_that_were_killed_long_ago_are_forgotten(tmp_path: Path) -> None:
    mark = Mark(load_settings(home=tmp_path))
    mark.renew()
    for name, days in (("old", 8), ("another", 1)):
        file = tmp_path / "launchers" / name
        file.touch()
        os.utime(file, (time.time() - days * 86400,) * 2)
    mark.remove()
    assert [file.name for file in (tmp_path / "launchers").iterdir()] == ["another"]


def test_searches_wait_while_the_cluster_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.0)
    with kept_port() as port, caplog.at_level(logging.WARNING, "automl_prune.launcher"):
        found = Cluster(load_settings(home=tmp_path, ray_address=f"127.0.0.1:{port}"))
        with socket.create_server(("127.0.0.1", port), reuse_port=True):
            assert found.reachable()
        assert not found.reachable()
        assert not found.reachable()
        said = [record.getMessage() for record in caplog.records]
        assert said == [f"Ray at 127.0.0.1:{port} cannot be reached; waiting for it"]
        assert re.fullmatch(r"Ray cannot be reached since [-\d]+ [:\d]+ UTC", found.trouble or "")
        with socket.create_server(("127.0.0.1", port), reuse_port=True):
            assert found.reachable()
        assert found.trouble is None


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_a_cluster_without_an_address_of_its_own_is_not_waited_for(tmp_path: Path, address: str | None) -> None:
    assert Cluster(load_settings(home=tmp_path, ray_address=address)).reachable()
