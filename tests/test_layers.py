"""Rooms import only what stands below them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    {"automl_prune.errors", "automl_prune.messages"},
    {"automl_prune.plugins"},
    {"automl_prune.cloning"},
    {"automl_prune.steady"},
    {"automl_prune.strict"},
    {"automl_prune.registry"},
    {"automl_prune.architecture"},
    {"automl_prune.granularity"},
    {"automl_prune.space"},
    {"automl_prune.networks"},
    {"automl_prune.costs"},
    {"automl_prune.trial", "automl_prune.problem", "automl_prune.pareto"},
    {"automl_prune.describe"},
    {"automl_prune.surgery"},
    {"automl_prune.latency"},
    {"automl_prune.evaluation", "automl_prune.functional"},
    {"automl_prune.strategies"},
    {"automl_prune.loop"},
    {"automl_prune.storage", "automl_prune.execution", "automl_prune.export", "automl_prune.report"},
    {"automl_prune.testing", "automl_prune.functional_search"},
    {"automl_prune"},
    {"search_spaces"},
    {"services"},
]
FORBIDDEN = {
    "automl_prune.strategies": ("automl_prune.surgery", "automl_prune.evaluation"),
    "automl_prune.loop": ("sqlalchemy", "ray", "fastapi"),
    "automl_prune.storage": ("automl_prune.execution",),
    "automl_prune.execution": ("automl_prune.storage",),
}
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(p for top in ("automl_prune", "search_spaces", "services") for p in (ROOT / top).rglob("*.py"))


def room(module: str) -> str | None:
    """The longest listed prefix of a module's name."""
    parts = module.split(".")
    return next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in RANK), None)


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(file: Path) -> None:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    here = room(name)
    assert here is not None, f"{name} belongs to no listed room"
    for target in imports(file):
        there = room(target)
        if there is not None and there != "automl_prune":
            assert RANK[there] < RANK[here] or there == here, f"{name} imports {target}, which stands above or beside it"
        for forbidden in FORBIDDEN.get(here, ()):
            assert not (target + ".").startswith(forbidden + "."), f"{name} must not import {target}"


def test_only_services_read_the_environment() -> None:
    for file in FILES:
        if file.is_relative_to(ROOT / "services") or file.is_relative_to(ROOT / "automl_prune/execution"):
            continue
        assert "os.environ" not in file.read_text(), f"{file} reads the environment"
