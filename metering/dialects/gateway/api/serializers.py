"""Shapes of the routes API: what is accepted and what is answered. Meaning is checked by the services."""

from __future__ import annotations

import re
from typing import Any

from rest_framework import serializers

from common.api import StrictSerializer, Text
from metering.api.serializers import ExactText
from metering.dialects.gateway.domain import ANY_METHOD, MAX_PATTERN_CHARACTERS
from metering.dialects.gateway.models import ErrorPolicy, MeteringMode, Route

ROUTE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z", re.ASCII)
METHOD = re.compile(r"[A-Za-z][A-Za-z-]{0,31}\Z", re.ASCII)


class RouteFields(StrictSerializer):
    name = Text(max_length=200, allow_blank=True, required=False)
    method = Text(max_length=32, allow_blank=True, required=False, help_text="GET, POST …; * or empty: every method.")
    path_pattern = ExactText(
        max_length=MAX_PATTERN_CHARACTERS,
        allow_blank=True,
        required=False,
        help_text="/users/{id}, /files/*, or *; empty: only records that name the route.",
    )
    metering_mode = serializers.ChoiceField(choices=MeteringMode.choices, required=False)
    # How long it may be says the service, which tells the column.
    metering_expr = ExactText(allow_blank=True, allow_null=True, required=False)
    metric = ExactText(max_length=64, allow_null=True, required=False)
    on_metering_error = serializers.ChoiceField(choices=ErrorPolicy.choices, required=False)

    def validate_method(self, method: str) -> str:
        if method in {"", ANY_METHOD}:
            return ANY_METHOD
        if not METHOD.match(method):
            raise serializers.ValidationError("A method is a word, like GET; * is every method.")
        return method.upper()

    def validate_metering_expr(self, text: str | None) -> str:
        return text or ""


class RouteWrite(RouteFields):
    id = ExactText(max_length=64, required=False)

    def validate_id(self, code: str) -> str:
        if not ROUTE_ID.match(code):
            message = "An id has 1 to 64 letters, digits and _ . : -, a letter or digit first."
            raise serializers.ValidationError(message, "invalid_id")
        return code


class RouteRead(serializers.Serializer):
    id = serializers.CharField()
    name = serializers.CharField()
    method = serializers.CharField()
    path_pattern = serializers.CharField()
    metering_mode = serializers.ChoiceField(choices=MeteringMode.choices)
    metering_expr = serializers.CharField(allow_null=True)
    metric = serializers.CharField(allow_null=True)
    on_metering_error = serializers.ChoiceField(choices=ErrorPolicy.choices)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def to_representation(self, route: Route) -> dict[str, Any]:
        return route_json(route)


def route_json(route: Route) -> dict[str, Any]:
    return {
        "id": route.code,
        "name": route.name,
        "method": route.method,
        "path_pattern": route.path_pattern,
        "metering_mode": route.metering_mode,
        "metering_expr": route.metering_expr or None,
        "metric": route.metric.code if route.metric else None,
        "on_metering_error": route.on_metering_error,
        "created_at": route.created_at,
        "updated_at": route.updated_at,
    }
