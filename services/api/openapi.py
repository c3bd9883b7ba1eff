"""The parts of /openapi.json that FastAPI cannot see: we read bodies ourselves, and errors are problems."""

from collections.abc import Container
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


EVENT_STREAM: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "properties": {
                    **{name: {"type": "string"} for name in ("data", "event", "id")},
                    "retry": {"type": "integer", "minimum": 0},
                },
            }
        }
    }
}
NO_MORE: dict[str, Any] = {"description": "The search has ended, and there is nothing more to tell."}

PROBLEM_RESPONSE: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Anything that went wrong.",
        "content": {"application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}}},
    }
}


SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; 'automl-prune keys create' makes one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in a header of its own."},
}


def complete(document: dict[str, Any], *bodies: type[BaseModel], is_open: Container[str]) -> dict[str, Any]:
    """``document`` with the schemas that the above refer to and those of ``bodies``; what ``is_open`` takes no key."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    models: tuple[type[BaseModel], ...] = (SearchSpec, *bodies)
    for model in models:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        schemas.update({**schema.pop("$defs", {}), model.__name__: schema})
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    document["security"] = [{name: []} for name in SECURITY_SCHEMES]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own form of it, which is never sent
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            if path in is_open:
                operation["security"] = []
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema: it may be left out, but neither a URL nor a header can hold a null."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return kinds[0] | {name: value for name, value in schema.items() if name != "anyOf"}
