"""Shapes of the metering API: what is accepted and what is answered. Meaning is checked by the services."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import available_timezones

from rest_framework import serializers

from common.api import Flag, ListQuery, Moment, StrictSerializer, Text, WholeNumber
from common.numbers import exact_text
from metering.admission import DECIMAL_TEXT
from metering.catalogs import MetricDefinition
from metering.domain import Granularity, Mode
from metering.models import Aggregation, Metric, PeriodType

MODES = [mode.value for mode in Mode]
MAX_DIMENSIONS = 16
MAX_DIMENSION_VALUES = 1000
MAX_FILTERED_VALUES = 100
MAX_THRESHOLDS = 8
MAX_PERIOD_DAYS = 3660
CODE = re.compile(r"[a-z0-9_.:-]{1,64}\Z", re.ASCII)
# Thresholds that quotas declare are called so, and no others.
QUOTA_PREFIX = "quota_"
KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z", re.ASCII)
# A dimension may not take the name under which breakdowns list the customer.
RESERVED_KEYS = frozenset({"customer"})

# Fractions arrive as Decimal and leave as text, so that neither side meets a float.
MAX_THRESHOLD_DIGITS, MAX_THRESHOLD_PLACES = 48, 18


class Quantity(serializers.DecimalField):
    """A decimal string or number in; an exact decimal string out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=MAX_THRESHOLD_DIGITS, decimal_places=MAX_THRESHOLD_PLACES, **options)

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, str | int | Decimal):
            self.fail("invalid")
        if isinstance(data, str) and not DECIMAL_TEXT.match(data):
            self.fail("invalid")  # Python also reads "1_000", " 5 " and other scripts' digits
        return super().to_internal_value(data)

    def to_representation(self, value: Any) -> str:
        return exact_text(Decimal(value))


class DimensionFilters(serializers.Field):
    """`{"region": "us"}` or `{"region": ["us", "eu"]}`: a value, or any of several, for each dimension named."""

    def to_internal_value(self, data: Any) -> dict[str, list[str]]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("A filter is an object of dimensions and their values.")
        return {str(key): self._values(key, values) for key, values in data.items()}

    def to_representation(self, value: dict[str, list[str]]) -> dict[str, list[str]]:
        return value

    def _values(self, key: str, values: Any) -> list[str]:
        several = [values] if isinstance(values, str) else values
        if (
            not isinstance(several, list)
            or not 0 < len(several) <= MAX_FILTERED_VALUES
            or not all(isinstance(value, str) and len(value) <= 1000 and "\x00" not in value for value in several)
        ):
            raise serializers.ValidationError({key: f"A value, or 1 to {MAX_FILTERED_VALUES} of them."})
        return sorted(set(several))


class ExactText(Text):
    """Text that must equal what events carry, so no space is taken off its ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)


class DimensionWrite(StrictSerializer):
    key = Text(max_length=128)
    values = serializers.ListField(
        child=ExactText(max_length=1000), required=False, allow_null=True, min_length=1, max_length=MAX_DIMENSION_VALUES
    )
    strict = Flag(default=False)

    def validate_key(self, key: str) -> str:
        if not KEY.match(key) or key in RESERVED_KEYS:
            message = "A key has letters, digits and _ . : - and is not `customer`."
            raise serializers.ValidationError(message, "invalid_key")
        return key

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if attributes["strict"] and not attributes.get("values"):
            raise serializers.ValidationError({"values": "A strict dimension lists its values."})
        return {"key": attributes["key"], "values": attributes.get("values"), "strict": attributes["strict"]}


class PeriodWrite(StrictSerializer):
    type = serializers.ChoiceField(choices=PeriodType.choices)
    billing_cycle_day = WholeNumber(min_value=1, max_value=28, required=False)
    days = WholeNumber(min_value=1, max_value=MAX_PERIOD_DAYS, required=False)

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        for name, period_type in (("billing_cycle_day", PeriodType.CALENDAR), ("days", PeriodType.FIXED)):
            if name in attributes and attributes["type"] != period_type:
                raise serializers.ValidationError({name: f"Only {period_type} periods have this."})
        return attributes


def checked_threshold_code(code: str) -> str:
    """Return the code. Raises `ValidationError` for what a threshold cannot be called."""
    if not CODE.match(code):
        raise serializers.ValidationError("A code has lower-case letters, digits and _ . : -.")
    if code.startswith(QUOTA_PREFIX):
        raise serializers.ValidationError(
            f"Codes that begin with {QUOTA_PREFIX} are for the warnings of quotas.", "reserved_code"
        )
    return code


class ThresholdWrite(StrictSerializer):
    code = ExactText(max_length=64)
    value = Quantity()
    recurring = Flag(default=False)

    def validate_code(self, code: str) -> str:
        return checked_threshold_code(code)

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if attributes["value"] <= 0:
            raise serializers.ValidationError({"value": "A threshold lies above zero."})
        return {**attributes, "value": exact_text(attributes["value"])}


class MetricWrite(StrictSerializer):
    """A metric as it is created; with `partial`, the fields that change."""

    code = ExactText(max_length=64)
    name = Text(max_length=200, allow_blank=True, required=False)
    description = Text(max_length=10_000, allow_blank=True, required=False)
    unit = Text(max_length=64, allow_blank=True, required=False)
    aggregation = serializers.ChoiceField(choices=Aggregation.choices)
    event_type = ExactText(max_length=256, required=False)
    value_property = ExactText(max_length=256, required=False, allow_null=True, allow_blank=True)
    dimensions = DimensionWrite(many=True, required=False, max_length=MAX_DIMENSIONS)
    period = PeriodWrite(required=False)
    thresholds = ThresholdWrite(many=True, required=False, max_length=MAX_THRESHOLDS)

    def validate_code(self, code: str) -> str:
        if not CODE.match(code):
            raise serializers.ValidationError("A code has 1 to 64 of a-z, 0-9 and _ . : -.", "invalid_code")
        return code

    def validate_dimensions(self, dimensions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return _refuse_repeated(dimensions, "key")

    def validate_thresholds(self, thresholds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return _refuse_repeated(thresholds, "code")

    def fields_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's field values for what was sent."""
        fields = {name: value for name, value in values.items() if name != "period"}
        if "value_property" in fields:
            fields["value_property"] = fields["value_property"] or ""
        if "period" in values:
            period = values["period"]
            fields["period_type"] = period["type"]
            fields["billing_cycle_day"] = period.get("billing_cycle_day", 1)
            fields["period_days"] = period.get("days", 30)
        return fields


def _refuse_repeated(entries: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    if len({entry[name] for entry in entries}) < len(entries):
        raise serializers.ValidationError(f"Each {name} stands once.", "repeated")
    return entries


def to_definition(fields: Mapping[str, Any]) -> MetricDefinition:
    """Return the definition of a new metric from its model's field values."""
    listed = {name: tuple(fields[name]) for name in ("dimensions", "thresholds") if name in fields}
    return MetricDefinition(**{**fields, **listed})


def metric_json(metric: Metric) -> dict[str, Any]:
    """Return a metric as the API shows it."""
    period: dict[str, Any] = {"type": metric.period_type}
    if metric.period_type == PeriodType.CALENDAR:
        period["billing_cycle_day"] = metric.billing_cycle_day
    if metric.period_type == PeriodType.FIXED:
        period["days"] = metric.period_days
    return {
        "code": metric.code,
        "name": metric.name,
        "description": metric.description,
        "unit": metric.unit,
        "aggregation": metric.aggregation,
        "event_type": metric.event_type,
        "value_property": metric.value_property or None,
        "dimensions": metric.dimensions,
        "period": period,
        "thresholds": metric.thresholds,
        "catalog": metric.catalog or None,
        "created_at": metric.created_at,
        "archived_at": metric.archived_at,
    }


class MetricRead(serializers.Serializer[Metric]):
    """The answer for one metric; a form for the OpenAPI document and for pages of metrics."""

    code = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    unit = serializers.CharField()
    aggregation = serializers.ChoiceField(choices=Aggregation.choices)
    event_type = serializers.CharField()
    value_property = serializers.CharField(allow_null=True)
    dimensions = DimensionWrite(many=True)
    period = PeriodWrite()
    thresholds = ThresholdWrite(many=True)
    catalog = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    archived_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, instance: Metric) -> dict[str, Any]:
        return metric_json(instance)


class MetricListQuery(ListQuery):
    archived = serializers.ChoiceField(choices=["true", "false"], default="false", help_text="true: the archived ones.")


# --- events ---------------------------------------------------------------------------------------------------


class QueryMoment(Moment):
    """A time in a query, where integers arrive as their digits."""

    def to_internal_value(self, value: Any) -> datetime:
        is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20
        return super().to_internal_value(int(value) if is_number else value)


class SpanQuery(StrictSerializer):
    """`from` and `to`, whose names Python keeps for itself."""

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": QueryMoment(required=False), "to": QueryMoment(required=False)}


class EventListQuery(ListQuery, SpanQuery):
    """Also takes `property.<key>=<value>`, any number of times."""

    customer = ExactText(required=False, max_length=256)
    metric = Text(required=False, max_length=64)


class VoidWrite(StrictSerializer):
    reason = Text(max_length=1000)


class InboxListQuery(ListQuery):
    state = serializers.ChoiceField(choices=["waiting", "replayed", "discarded"], default="waiting")


class InboxIds(StrictSerializer):
    ids = serializers.ListField(child=Text(max_length=20), required=False, min_length=1, max_length=1000)

    def validate_ids(self, ids: list[str]) -> list[int]:
        if not all(text.isascii() and text.isdigit() and len(text) <= 18 for text in ids):
            raise serializers.ValidationError("An id is what the list answers.", "invalid_id")
        return [int(text) for text in ids]


# --- usage ----------------------------------------------------------------------------------------------------


class ZoneName(Text):
    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        if name not in available_timezones():
            raise serializers.ValidationError("This is not an IANA time zone.", "invalid_zone")
        return name


class RealtimeQuery(StrictSerializer):
    metric = Text(max_length=64)
    customer = ExactText(required=False, max_length=256)


class RangeQuery(RealtimeQuery, SpanQuery):
    """Also takes `filter[<dimension>]=<value>`, repeated for OR."""

    period = Text(required=False, max_length=10)
    as_of = QueryMoment(required=False)


class BreakdownQuery(RangeQuery):
    group_by = serializers.ListField(child=Text(max_length=128), min_length=1, max_length=MAX_DIMENSIONS + 1)


class SeriesQuery(RangeQuery):
    granularity = serializers.ChoiceField(choices=[choice.value for choice in Granularity], default=Granularity.DAY)
    tz = ZoneName(required=False, max_length=64)
    mode = serializers.ChoiceField(choices=MODES, default=Mode.INCREMENTAL)
    group_by = serializers.ListField(child=Text(max_length=128), required=False, max_length=MAX_DIMENSIONS + 1)
