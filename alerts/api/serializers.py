"""Shapes of the alerts API: what is accepted and what is answered. Meaning is checked by the services."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from alerts.domain import ThresholdKind
from alerts.models import Threshold
from common.api import Flag, ListQuery, StrictSerializer, Text, WholeNumber
from common.numbers import exact_text
from metering.api.serializers import DimensionFilters, ExactText, Quantity, checked_threshold_code

MAX_NAMES = 100
MAX_SILENCE_SECONDS = 366 * 86_400
LEAST_SILENCE_SECONDS = 60
# The name of each kind's value in the API; exactly one of them is given.
KIND_FIELDS = {
    "value": ThresholdKind.VALUE,
    "percent_of_included": ThresholdKind.PERCENT,
    "projected": ThresholdKind.PROJECTED,
    "silence_seconds": ThresholdKind.SILENCE,
}


class ThresholdFields(StrictSerializer):
    code = ExactText(max_length=64)
    value = Quantity(required=False)
    percent_of_included = Quantity(required=False)
    projected = Quantity(required=False)
    silence_seconds = WholeNumber(min_value=LEAST_SILENCE_SECONDS, max_value=MAX_SILENCE_SECONDS, required=False)
    filter = DimensionFilters(required=False)
    recurring = Flag(required=False)

    def validate_code(self, code: str) -> str:
        return checked_threshold_code(code)

    @staticmethod
    def changes_of(attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes in the words of the model."""
        given = [name for name in KIND_FIELDS if name in attributes]
        changes = {"code": attributes.get("code"), "filters": attributes.get("filter")}
        changes["is_recurring"] = attributes.get("recurring")
        if given:
            changes["kind"], changes["value"] = KIND_FIELDS[given[0]], Decimal(attributes[given[0]])
        return {name: value for name, value in changes.items() if value is not None}


def _refuse_several_kinds(attributes: dict[str, Any], *, is_required: bool) -> None:
    given = [name for name in KIND_FIELDS if name in attributes]
    if len(given) > 1 or (is_required and not given):
        message = f"Give exactly one of {', '.join(KIND_FIELDS)}."
        raise serializers.ValidationError({given[1] if given else "value": serializers.ErrorDetail(message, "one_of")})


class ThresholdCreate(ThresholdFields):
    metric = ExactText(max_length=64)
    customer = ExactText(max_length=256, required=False, allow_null=True)

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        _refuse_several_kinds(attributes, is_required=True)
        return attributes


class ThresholdChange(ThresholdFields):
    """The fields that change; whose usage of which metric it watches stays."""

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        _refuse_several_kinds(attributes, is_required=False)
        return attributes


class ThresholdRead(serializers.Serializer):
    id = serializers.CharField()
    code = serializers.CharField()
    metric = serializers.CharField()
    customer = serializers.CharField(allow_null=True)
    value = serializers.CharField(allow_null=True)
    percent_of_included = serializers.CharField(allow_null=True)
    projected = serializers.CharField(allow_null=True)
    silence_seconds = serializers.IntegerField(allow_null=True)
    filter = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    recurring = serializers.BooleanField()
    origin = serializers.CharField(help_text="own, or who declares it: metric or quota")
    created_at = serializers.DateTimeField()

    def to_representation(self, threshold: Threshold) -> dict[str, Any]:
        return threshold_json(threshold)


def threshold_json(threshold: Threshold) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: exact_text(threshold.value) if threshold.kind == kind else None for name, kind in KIND_FIELDS.items()
    }
    if values["silence_seconds"] is not None:
        values["silence_seconds"] = int(threshold.value)
    return {
        "id": str(threshold.pk),
        "code": threshold.code,
        "metric": threshold.metric.code,
        "customer": threshold.customer.external_id if threshold.customer else None,
        **values,
        "filter": threshold.filters,
        "recurring": threshold.is_recurring,
        "origin": threshold.origin,
        "created_at": threshold.created_at,
    }


class ThresholdListQuery(ListQuery):
    metric = Text(required=False, max_length=64)
    customer = Text(required=False, max_length=256)


class TraceQuery(StrictSerializer):
    customer = Text(required=False, max_length=256, help_text="Whose usage; not needed where the threshold names one.")


class AlertListQuery(StrictSerializer):
    since = WholeNumber(min_value=0, max_value=2**63 - 1, default=0, help_text="Only alerts after this offset.")
    limit = WholeNumber(min_value=1, max_value=1000, default=100)
    customer = serializers.ListField(child=Text(max_length=256), required=False, max_length=MAX_NAMES)
    metric = serializers.ListField(child=Text(max_length=64), required=False, max_length=MAX_NAMES)


class SpanRead(serializers.Serializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()


class AlertRead(serializers.Serializer):
    offset = serializers.CharField()
    customer = serializers.CharField(allow_null=True)
    metric = serializers.CharField()
    threshold_code = serializers.CharField()
    threshold_value = serializers.CharField()
    value_at_cross = serializers.CharField()
    period = SpanRead()
    triggered_at = serializers.DateTimeField()


class AlertPage(serializers.Serializer):
    data = AlertRead(many=True)  # type: ignore[assignment]  # the wire's name, not the serializer's own `data`
    next_offset = serializers.CharField(help_text="`since` of the next request.")
    last_offset = serializers.CharField(help_text="Where the log ends: every alert up to here could be in this answer.")
