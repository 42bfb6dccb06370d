"""How the table's rows appear in the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

from usage_reports.launchdarkly.endpoints import Answer, Endpoint

if TYPE_CHECKING:
    from usage_reports.launchdarkly.views import ReportView

_LINKS = {"type": "object", "description": "`self`: this request's own address."}
_SERIES = {
    "type": "object",
    "required": ["_links", "metadata", "series"],
    "properties": {
        "_links": _LINKS,
        "metadata": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "The group of each column.",
        },
        "series": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "number"}},
            "description": "`time` in Unix milliseconds, and a value for each column by its number.",
        },
    },
}
_SDKS = {
    "type": "object",
    "required": ["_links", "sdks"],
    "properties": {"_links": _LINKS, "sdks": {"type": "array", "items": {"type": "string"}}},
}
_SDK_VERSIONS = {
    "type": "object",
    "required": ["_links", "sdkVersions"],
    "properties": {
        "_links": _LINKS,
        "sdkVersions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["sdk", "version"],
                "properties": {"sdk": {"type": "string"}, "version": {"type": "string"}},
            },
        },
    },
}
_REFUSAL = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
}
_REFUSALS = {
    400: "A parameter is unknown or its value is invalid; the message names it.",
    401: "No API key, or one that is not valid.",
    403: "The key lacks the scope `usage:read`, or is bound to other metrics.",
    404: "What the path or a parameter names does not exist, or the catalog `launchdarkly` is not installed.",
    429: "Too many requests; see `X-Ratelimit-Auth-Token-Reset`.",
    503: "A store is down; retry.",
}
_ANSWERS = {Answer.SERIES: _SERIES, Answer.SDKS: _SDKS, Answer.SDK_VERSIONS: _SDK_VERSIONS}


class ReportSchema(AutoSchema):
    """Describes a view by its row."""

    @property
    def _endpoint(self) -> Endpoint:
        return cast("ReportView", self.view).endpoint

    def get_operation_id(self) -> str:
        return self._endpoint.operation

    def get_tags(self) -> list[str]:
        return ["usage reports"]

    def get_override_parameters(self) -> list[Any]:
        return list(list_parameters(self._endpoint))

    def get_request_serializer(self) -> Any:
        return None

    def get_response_serializers(self) -> Any:
        refusals = {status: OpenApiResponse(_REFUSAL, description) for status, description in _REFUSALS.items()}
        return {200: OpenApiResponse(_ANSWERS[self._endpoint.answer], "The usage."), **refusals}


def list_parameters(endpoint: Endpoint) -> list[OpenApiParameter]:
    described = [
        OpenApiParameter(entry.parameter, OpenApiTypes.STR, "path", required=True, enum=entry.choices or None)
        for entry in endpoint.path_filters
    ]
    if not endpoint.range.is_fixed:
        described += [_text("from", "Unix seconds or milliseconds."), _text("to", "Unix seconds or milliseconds.")]
    if endpoint.range.has_zone:
        described.append(_text("tz", "The zone whose days are counted, where points are days."))
    described += [
        OpenApiParameter(entry.parameter, OpenApiTypes.STR, enum=entry.choices or None, many=entry.is_repeatable)
        for entry in endpoint.filters
    ]
    if endpoint.groups:
        names = [group.name for group in endpoint.groups]
        described.append(OpenApiParameter(endpoint.group_parameter, OpenApiTypes.STR, enum=names, many=True))
    if endpoint.has_aggregation_parameter:
        described.append(_choice("aggregationType", [choice.name for choice in endpoint.aggregations]))
    if endpoint.has_granularity_parameter:
        names = [name for choice in endpoint.aggregations for name in choice.granularities]
        described.append(_choice("granularity", list(dict.fromkeys(names))))
    return described


def _text(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.STR, description=description)


def _choice(name: str, values: list[str]) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.STR, enum=values)
