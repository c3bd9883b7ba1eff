"""Drivers killed by SIGKILL before and after every step, and at any moment: nothing is lost, nothing done twice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVERS = Path(__file__).with_name("crash_drivers.py")
TRIALS = 6


def searches(folder: Path, *command: object, url: str | None = None) -> list[dict[str, Any]]:
    """What became of the undisturbed search, and then of each disturbed one."""
    where = url or f"sqlite:///{folder / 'searches.sqlite3'}"
    arguments = [sys.executable, str(DRIVERS), str(folder), where, *map(str, command)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]]) -> None:
    """Each disturbed search ended as the undisturbed one did."""
    expected, *disturbed = found
    assert expected["state"] == "succeeded"
    assert sum(arm == "search" for _, arm, _ in expected["asks"]) == TRIALS
    assert disturbed
    for search in disturbed:
        what = {name: search.get(name) for name in ("at", "after", "call", "kills", "attempt")}
        for name in ("state", "asks", "outcomes", "files", "best"):
            assert search[name] == expected[name], (name, what)
        assert search["open"] == 0, what


def check_steps(found: list[dict[str, Any]]) -> None:
    check(found)
    for search in found[1:]:
        assert search["killed"], search["call"]
        unrecorded = search["call"] == "record_outcome" and not search["after"]
        assert len(search["evaluated_twice"]) == unrecorded, "only what was not recorded yet is evaluated again"


def test_a_driver_may_die_at_its_steps(tmp_path: Path) -> None:
    found = searches(tmp_path, "steps", 9)
    check_steps(found)
    assert {"claim", "renew", "record_ask", "record_start", "record_outcome", "save_snapshot"} <= set(found[0]["calls"])
    assert found[0]["calls"][-2:] == ["set_state", "get_search"], "and the end"


@pytest.mark.parametrize("url", [None, pytest.param("postgres_url", marks=pytest.mark.slow)], ids=["sqlite", "postgresql"])
def test_drivers_may_die_at_any_moment(request: pytest.FixtureRequest, tmp_path: Path, url: str | None) -> None:
    found = searches(tmp_path, "chaos", 3, 1, url=url and request.getfixturevalue(url))
    check(found)
    assert sum(search["kills"] for search in found[1:]) >= 1


@pytest.mark.slow
def test_a_driver_may_die_at_every_step(tmp_path: Path) -> None:
    check_steps(searches(tmp_path, "steps", 1))


@pytest.mark.slow
def test_drivers_on_postgresql_may_die_at_every_third_step(tmp_path: Path, postgres_url: str) -> None:
    check_steps(searches(tmp_path, "steps", 3, url=postgres_url))
