"""Reports of a real search: do files, tables and drawings say what the service told?"""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from automl_prune.report.importance import importances
from automl_prune.report.numbers import amount, quality
from automl_prune.report.told import ARMS, Told
from automl_prune.report.writing import write_report

DRAWN = ["trials.svg", "progress.svg", "widths.svg", "parallel.svg", "importances.svg", "timeline.svg"]
DRAWN += ["latency-pi4-check.svg", "latency-pi4-macs.svg"]


def texts(file: Path) -> set[str]:
    """What is written in a drawing."""
    return {(e.text or "").strip() for e in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")}


def test_a_report_holds_what_the_result_says(told: Told, tmp_path: Path) -> None:
    files = write_report(tmp_path, told)
    assert [file.name for file in files] == ["report.md", *DRAWN, "trials.csv", "search.json", "best.json"]
    assert sorted(files) == sorted(tmp_path.iterdir())
    report, result = (tmp_path / "report.md").read_text(), json.loads((tmp_path / "best.json").read_text())
    assert result == told.result
    best = next(line for line in report.splitlines() if line.startswith("| best of the search | "))
    assert quality("top1", result["metrics"]["top1"]) in best
    assert amount(result["metrics"]["latency_ms"]["pi4"]) in best
    assert "| control: uniform |" in report
    assert f"(median of {len(told.trials)}, inline executor)" in report
    assert f"takes {amount(result['metrics']['latency_ms']['pi4'])} ms on pi4 as measured; " in report
    assert all(f"]({name})" in report for name in DRAWN)
    error = result["metrics"]["latency"]["pi4"]["error"]
    assert f"The measurement has a standard error of {100 * error:.1f} % (timings: 3)." in report


def test_measurements_of_earlier_searches_are_told(told: Told, tmp_path: Path) -> None:
    write_report(tmp_path, told)
    assert "earlier searches" not in (tmp_path / "report.md").read_text()
    result = json.loads(json.dumps(told.result))
    result["provenance"]["search_cost"]["measured_before"] = 27
    write_report(tmp_path, replace(told, result=result))
    assert "Besides, 27 measurements of earlier searches were used." in (tmp_path / "report.md").read_text()


def test_drawings_say_what_they_show(told: Told, tmp_path: Path) -> None:
    write_report(tmp_path, told)
    (bound,) = told.bounds
    assert {"ms on pi4, predicted", f"budget ≤ {amount(bound.most)}", "full network", "search"} <= texts(
        tmp_path / "trials.svg"
    )
    assert f"search, {quality('top1', told.best_so_far('search')[-1][1])}" in texts(tmp_path / "progress.svg")
    assert {"predicted, ms", "measured, ms"} <= texts(tmp_path / "latency-pi4-check.svg")
    points = (tmp_path / "latency-pi4-check.svg").read_text().count("<use ")
    assert points >= len(told.devices["pi4"]["check"]["measured"]) == 12
    assert {"MACs", "ms on pi4, predicted"} <= texts(tmp_path / "latency-pi4-macs.svg")


@pytest.mark.parametrize(("tolerance", "why"), [(0.0, "they miss by more than 0.0 %"), (0.9, "these are too few")])
def test_what_was_measured_is_told_from_what_was_predicted(told: Told, tmp_path: Path, tolerance: float, why: str) -> None:
    device = dict(told.devices["pi4"]) | {"trusted": False, "tolerance": tolerance, "unsettled": 7}
    search = dict(told.search) | {"info": dict(told.search["info"]) | {"latency": {"pi4": device}}}
    slow = [t["number"] for t in told.scored("search")[:3]]
    trials = [dict(t) | {"state": "infeasible"} if t["number"] in slow else t for t in told.trials]
    before = write_report(tmp_path, replace(told, search=search))
    points = (tmp_path / "latency-pi4-macs.svg").read_text().count("<use ")
    assert "too slow, so not scored" not in texts(tmp_path / "latency-pi4-macs.svg")
    assert write_report(tmp_path, replace(told, search=search, trials=trials)) == before
    assert {"too slow, so not scored", "ms on pi4, measured"} <= texts(tmp_path / "latency-pi4-macs.svg")
    assert (tmp_path / "latency-pi4-macs.svg").read_text().count("<use ") == points + 1, "drawn, and once in the legend"
    assert "ms on pi4, measured" in texts(tmp_path / "trials.svg")
    report = (tmp_path / "report.md").read_text()
    assert (
        f"of which 7 did not settle; predictions checked on 12 networks. Every candidate was measured, as {why}." in report
    )


def test_stopped_trials_are_drawn_where_no_score_is_needed(told: Told, tmp_path: Path) -> None:
    drawn, points = ("trials", "progress", "latency-pi4-macs"), {}
    stopped = [t["number"] for t in told.scored("search")[:3]]
    ended = {"state": "stopped"}
    trials = [dict(t) | ended | {"metrics": costs_of(t)} if t["number"] in stopped else t for t in told.trials]
    for name, some in (("all", told), ("stopped", replace(told, trials=trials))):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, some)
        points[name] = [(tmp_path / name / f"{file}.svg").read_text().count("<use ") for file in drawn]
    assert points["stopped"] == [points["all"][0] - 3, points["all"][1], points["all"][2] + 1], "once more in the legend"
    assert "stopped early, so not scored" in texts(tmp_path / "stopped" / "latency-pi4-macs.svg")
    assert "stopped early, so not scored" not in texts(tmp_path / "all" / "latency-pi4-macs.svg")
    report = (tmp_path / "stopped" / "report.md").read_text()
    assert "all trials" not in report


def costs_of(trial: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in trial["metrics"].items() if name not in ("top1", "loss")}


def test_importances_are_rank_correlations(told: Told) -> None:
    found = dict(importances(told))
    trials = [trial for arm in ARMS for trial in told.scored(arm)]
    for name, value in found.items():
        widths, scores = [t["widths"][name] for t in trials], [t["metrics"]["top1"] for t in trials]
        assert value == pytest.approx(spearmanr(widths, scores).statistic)
    assert list(map(abs, found.values())) == sorted(map(abs, found.values()), reverse=True)
    fewer = replace(told, trials=[t for t in told.trials if t["arm"] == "uniform"])
    assert importances(fewer) == []


def test_spans_in_one_row_do_not_overlap(told: Told) -> None:
    moments = [(0, 5), (1, 3), (2, 6), (4, 7), (5, 8)]
    start = datetime.fromisoformat(told.search["started_at"])
    trials = [
        {"state": "complete"}
        | {n: (start + timedelta(seconds=s)).isoformat() for n, s in (("started_at", a), ("ended_at", b))}
        for a, b in moments
    ]
    found = replace(told, trials=trials).spans()
    assert found == [("complete", a, b, row) for (a, b), row in zip(moments, (0, 1, 2, 1, 0), strict=True)]


def test_the_same_search_makes_the_same_bytes(told: Told, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one, two = (write_report(tmp_path / folder, told) for folder in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_every_trial_is_a_row_with_its_widths(told: Told, tmp_path: Path) -> None:
    write_report(tmp_path, told)
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == [trial["number"] for trial in told.trials]
    for row, trial in zip(rows, told.trials, strict=True):
        assert {name: int(row[f"width {name}"]) for name in trial["widths"]} == trial["widths"]
        assert {name: float(row[name]) for name in trial["metrics"]} == trial["metrics"]


def test_a_search_that_runs_has_a_report_too(told: Told, tmp_path: Path) -> None:
    some = [trial for trial in told.trials if trial["number"] < 6]
    running = replace(told, search=dict(told.search) | {"state": "running", "finished_at": None}, trials=some, result=None)
    names = [file.name for file in write_report(tmp_path, running, pictures="png")]
    assert "trials.png" in names
    assert "widths.png" not in names
    assert "There is no result; the search is running, best so far" in (tmp_path / "report.md").read_text()


def test_a_search_that_waits_has_no_drawings(told: Told, tmp_path: Path) -> None:
    search = dict(told.search) | {"state": "queued", "info": {}, "base": {}, "best": None, "started_at": None}
    names = [file.name for file in write_report(tmp_path, Told(search, []))]
    assert names == ["report.md", "trials.csv", "search.json"]


def test_names_from_elsewhere_stay_text_and_files_stay_here(told: Told, tmp_path: Path) -> None:
    devices = {"../../etc/pi4": told.devices["pi4"]}
    search = dict(told.search) | {"info": dict(told.search["info"]) | {"latency": devices}}
    files = write_report(tmp_path, replace(told, search=search))
    assert {file.parent for file in files} == {tmp_path}
    report = (tmp_path / "report.md").read_text()
    assert report.startswith(r"# a \<b\>search\</b\> \| of digits")
    assert not re.search(r"(?<!\\)<", report)


def test_the_best_so_far_is_within_the_budgets_and_never_falls(told: Told) -> None:
    line = told.best_so_far("search")
    scores = [score for _, score in line]
    assert scores == sorted(scores)
    (bound,) = told.bounds
    within = [t["metrics"]["top1"] for t in told.scored("search") if bound.holds(t["metrics"])]
    assert scores[-1] == max(within)
    assert line[-1][0] == len(told.scored("search"))
