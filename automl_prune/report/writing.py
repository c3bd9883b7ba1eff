"""The report as files."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from automl_prune.report.drawings import drawings
from automl_prune.report.told import Told
from automl_prune.report.words import markdown


def write_report(folder: Path, told: Told, *, pictures: str = "svg") -> list[Path]:
    """Write ``report.md`` with its drawings, ``trials.csv``, and the JSON that they were made of.

    Args:
        folder: There already; files of these names are replaced.
        told: The search.
        pictures: Format of the drawings: svg, png or pdf.
    """
    drawn: dict[str, str] = {}
    for drawing in drawings(told):
        file = f"{re.sub(r'[^A-Za-z0-9._-]', '_', drawing.name)}.{pictures}"
        drawing.save(folder / file)
        drawn[file] = drawing.caption
    _write_trials(folder / "trials.csv", told)
    data = {"search.json": told.search, "best.json": told.result}
    known = {name: of for name, of in data.items() if of is not None}
    for name, of in known.items():
        (folder / name).write_text(json.dumps(of, indent=1, allow_nan=False), encoding="utf-8")
    (folder / "report.md").write_text(markdown(told, drawn), encoding="utf-8")
    return [folder / name for name in ("report.md", *drawn, "trials.csv", *known)]


def _write_trials(file: Path, told: Told) -> None:
    rows = [dict(_row(trial)) for trial in told.trials]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _row(trial: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("number", "arm", "state", "attempt", "parent", "asked_at", "started_at", "ended_at", "reason"):
        yield name, trial[name]
    yield from trial["metrics"].items()
    yield from ((f"cost {name}", value) for name, value in trial["cost"].items())
    yield from ((f"width {name}", width) for name, width in trial["widths"].items())
