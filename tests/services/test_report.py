"""``automl-prune report`` against a real server."""

import json
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from typer.testing import CliRunner

from automl_prune.loop.ports import Store
from automl_prune.storage.sql import SqlStore
from services.cli.app import app as commands


def test_a_report_is_written_of_what_the_server_tells(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, fill: Callable[[Store], str], tmp_path: Path
) -> None:
    search_id, server = fill(store), serve(app)
    done = CliRunner().invoke(commands, ["report", search_id, "-o", str(tmp_path / "new" / "one"), "--server", server])
    assert done.exit_code == 0, done.output
    found = {file.name for file in (tmp_path / "new" / "one").iterdir()}
    assert found == {
        "report.md",
        "trials.svg",
        "progress.svg",
        "parallel.svg",
        "importances.svg",
        "timeline.svg",
        "trials.csv",
        "search.json",
    }
    assert all(name in done.output for name in found)
    told = json.loads((tmp_path / "new" / "one" / "search.json").read_text())
    assert told["id"] == search_id
    assert len((tmp_path / "new" / "one" / "trials.csv").read_text().splitlines()) == 1 + 14


def test_a_report_of_nothing_leaves_nothing(app: FastAPI, serve: Callable[[FastAPI], str], tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["report", "srch_no", "-o", str(tmp_path / "new"), "--server", serve(app)])
    assert done.exit_code == 2
    assert "srch_no" in done.output
    assert not (tmp_path / "new").exists()
