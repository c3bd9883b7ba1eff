"""What clients were told of the interface: a change of it is meant, or found here."""

import json
import os
from pathlib import Path

from fastapi import FastAPI

SNAPSHOT = Path(__file__).parent / "openapi.json"
UPDATE = "UPDATE_OPENAPI=1 pytest -n0 tests/services/test_openapi.py"


def test_the_interface_is_the_one_that_is_recorded(app: FastAPI) -> None:
    document = app.openapi()
    document["info"].pop("version")
    now = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_OPENAPI"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert now == SNAPSHOT.read_text(encoding="utf-8"), f"If that is meant, record it: {UPDATE}"


def test_every_operation_is_described(app: FastAPI) -> None:
    document = app.openapi()
    names = set(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation.get("description"), f"{verb} {path}"
            assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}
    used = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert used <= names
