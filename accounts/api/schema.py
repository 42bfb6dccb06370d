"""The OpenAPI document and its page. Both are public: they describe the API and hold nobody's data."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from common.api import NoQuery, read_query

JSON = "application/json"
PREFIXES = ("/v1/", "/admin/")
# What any operation may answer besides its own success; all in the one error shape.
REFUSALS = {
    "400": "The request is malformed: not JSON, or not whole.",
    "401": "No API key, or one that is not valid.",
    "403": "The key lacks the scope, or is bound to a customer or metrics.",
    "404": "Absent, or somebody else's: the answer is the same.",
    "409": "It conflicts with what exists.",
    "413": "The body is too large.",
    "415": "The body is of a type or encoding that is not understood.",
    "422": "Well-formed, but refused; `errors` names the fields.",
    "429": "Too many requests; see `Retry-After`.",
    "503": "A store is down; see `Retry-After`.",
}
ERROR_SCHEMA = {
    "type": "object",
    "required": ["code", "message", "errors"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "code", "message"],
                "properties": {
                    "field": {"type": "string"},
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "index": {"type": "integer"},
                },
            },
        },
    },
}


def page_of(row: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """Describe a page of rows, for `extend_schema`."""
    return inline_serializer(
        f"{row.__name__.removesuffix('Read')}Page",
        {"data": row(many=True), "next_cursor": serializers.CharField(allow_null=True)},
    )


def add_error_responses(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook: give every operation of the native API the refusals that it shares with all others."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR_SCHEMA
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in result["paths"].items():
        for operation in operations.values() if path.startswith(PREFIXES) else ():
            for status, description in REFUSALS.items():
                operation["responses"].setdefault(status, {"description": description, "content": content})
    return result


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    read_query(request.GET, NoQuery)
    return HttpResponse(_document(), content_type=JSON)


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """The document as a page, from files of our own."""
    return render(request, "accounts/api_docs.html", {"openapi_url": reverse("accounts_api:openapi")})


@cache
def _document() -> bytes:
    """Describe the API once per process: it changes with the code only."""
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    document: bytes = OpenApiJsonRenderer().render(schema, renderer_context={})
    return document
