"""The ingest routes in the OpenAPI document: they are plain Django views, which drf-spectacular cannot see."""

from typing import Any

JSON = "application/json"

EVENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["customer"],
    "description": "Give `type` or its alias `metric`, exactly one of the two.",
    "properties": {
        "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 256},
        "customer": {"type": "string", "minLength": 1, "maxLength": 256},
        "type": {"type": "string"},
        "metric": {"type": "string"},
        "value": {"type": ["string", "number", "null"], "description": "Decimal; for count_unique the member."},
        "timestamp": {"type": ["string", "integer", "null"], "description": "RFC 3339 with offset, or Unix time."},
        "properties": {
            "type": ["object", "null"],
            "maxProperties": 64,
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        "operation": {"type": ["string", "null"], "enum": ["add", "remove", None]},
        "delivery": {"type": ["string", "null"], "enum": ["sync", "async", None]},
    },
}

VERDICTS = {
    "type": "object",
    "required": ["stored", "duplicates", "rejected", "errors"],
    "properties": {
        "stored": {"type": "integer"},
        "duplicates": {"type": "integer"},
        "rejected": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "idempotency_key": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
        "first_offset": {"type": ["string", "null"]},
        "last_offset": {"type": ["string", "null"]},
        "generated_keys": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

ACCEPTANCE = {
    "type": "object",
    "required": ["accepted", "rejected", "errors"],
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "errors": VERDICTS["properties"]["errors"],  # type: ignore[index]  # the literal's type is too wide
    },
}

_EVENTS = {
    "oneOf": [
        {"$ref": "#/components/schemas/Event"},
        {"type": "array", "maxItems": 5000, "items": {"$ref": "#/components/schemas/Event"}},
    ]
}
_BODY = {
    "required": True,
    "content": {
        JSON: {"schema": _EVENTS},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
        "application/cloudevents+json": {"schema": {"type": "object"}},
        "application/cloudevents-batch+json": {"schema": {"type": "array", "items": {"type": "object"}}},
    },
}
_PARAMETERS = [
    {"name": "durability", "in": "query", "schema": {"type": "string", "enum": ["sync", "async"], "default": "sync"}},
    {"name": "atomic", "in": "query", "schema": {"type": "string", "enum": ["true", "false"], "default": "false"}},
]


def add_ingest_routes(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook: describe `POST /v1/events` and its dry run."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas.update({"Event": EVENT, "Verdicts": VERDICTS, "Acceptance": ACCEPTANCE})
    paths = result["paths"]
    paths.setdefault("/v1/events", {})["post"] = _operation(
        "ingest_events", "Store events; a verdict for each.", {"200": "Verdicts", "202": "Acceptance"}
    )
    paths.setdefault("/v1/events/validate", {})["post"] = _operation(
        "validate_events", "Answer what a request would do; store nothing.", {"200": "Verdicts"}
    )
    return result


def _operation(operation_id: str, summary: str, answers: dict[str, str]) -> dict[str, Any]:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": ["events"],
        "parameters": _PARAMETERS,
        "requestBody": _BODY,
        "responses": {
            status: {
                "description": name,
                "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}},
            }
            for status, name in answers.items()
        },
    }
