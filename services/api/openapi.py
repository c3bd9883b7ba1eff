"""The parts of /openapi.json that FastAPI cannot see: we read bodies ourselves, and errors are problems."""

from typing import Any

from pydantic import BaseModel

from automl_prune.loop.spec import SearchSpec

_REFERENCE = "#/components/schemas/{model}"
_EXAMPLE = {
    "name": "resnet56-half",
    "search_space": {"name": "resnet56"},
    "weights": "resnet56-4bfd9763.th",
    "dataset": {"name": "cifar10"},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "trials": {"max": 100, "parallel": 2},
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details; ``code`` is stable, ``errors`` names faulty fields by JSON pointer.",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail", "code"],
                "properties": {name: {"type": "string"} for name in ("pointer", "detail", "code")},
            },
        },
    },
}

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="SearchSpec")}, "example": _EXAMPLE}},
    }
}


def body(model: str) -> dict[str, Any]:
    """A JSON body of this schema, for routes that read it themselves."""
    schema = {"schema": {"$ref": _REFERENCE.format(model=model)}}
    return {"requestBody": {"required": True, "content": {"application/json": schema}}}


PROBLEM_RESPONSE: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Anything that went wrong.",
        "content": {"application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}}},
    }
}


def complete(document: dict[str, Any], *bodies: type[BaseModel]) -> dict[str, Any]:
    """``document`` with the schemas that the above refer to, and those of ``bodies``."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    models: tuple[type[BaseModel], ...] = (SearchSpec, *bodies)
    for model in models:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        schemas.update({**schema.pop("$defs", {}), model.__name__: schema})
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own form of it, which is never sent
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document
