"""`POST /v1/requests` in the OpenAPI document: a plain Django view, which drf-spectacular cannot see."""

from typing import Any

JSON = "application/json"

_TEXT = {"type": ["string", "null"], "maxLength": 256}
_BYTES = {"type": "integer", "minimum": 0, "maximum": 10**15}

REQUEST_RECORD = {
    "type": "object",
    "additionalProperties": False,
    "required": ["method", "status_code", "latency_ms"],
    "properties": {
        "request_id": {"type": ["string", "null"], "minLength": 1, "maxLength": 256, "description": "Sent again: one."},
        "user_id": _TEXT | {"description": "The customer; without one: `anonymous`."},
        "api_key_id": _TEXT,
        "route_id": _TEXT | {"description": "Without it the method and the path find the route."},
        "method": {"type": "string", "minLength": 1, "maxLength": 32},
        "path": {"type": ["string", "null"], "maxLength": 2048},
        "query_params": {"type": ["string", "object", "null"]},
        "timestamp": {"type": ["string", "integer", "null"], "description": "RFC 3339 with offset, or Unix time."},
        "status_code": {"type": "integer", "minimum": 100, "maximum": 599},
        "latency_ms": {"type": ["string", "number"], "minimum": 0},
        "request_bytes": _BYTES,
        "response_bytes": _BYTES,
        "error_code": _TEXT,
        "ip_address": {"type": ["string", "null"]},
        "request_body": {"description": "JSON; evaluated, never stored."},
        "response_body": {"description": "JSON; evaluated, never stored."},
    },
}

_ONE = {"$ref": "#/components/schemas/RequestRecord"}
_MANY = {"type": "array", "minItems": 1, "maxItems": 5000, "items": _ONE}
_BODY = {
    "required": True,
    "content": {
        JSON: {
            "schema": {
                "oneOf": [
                    _ONE,
                    _MANY,
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["requests"],
                        "properties": {"requests": _MANY},
                    },
                ]
            }
        }
    },
}


def add_recording_route(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook: describe `POST /v1/requests`. The verdicts are those of `POST /v1/events`."""
    result.setdefault("components", {}).setdefault("schemas", {})["RequestRecord"] = REQUEST_RECORD
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Verdicts"}}}
    result["paths"].setdefault("/v1/requests", {})["post"] = {
        "operationId": "record_requests",
        "summary": "Store what a gateway served; a verdict for each request.",
        "tags": ["requests"],
        "requestBody": _BODY,
        "responses": {"200": {"description": "Verdicts", "content": content}},
    }
    return result
