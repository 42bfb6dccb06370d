"""Shapes of the rate table."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.models import TaxRate
from common.api import ListQuery, StrictSerializer, Text
from common.numbers import exact_text
from metering.api.serializers import ExactText, Quantity


class TaxRateWrite(StrictSerializer):
    code = ExactText(max_length=64)
    name = Text(max_length=100, help_text="As invoices print it.")
    percent = Quantity(min_value=0, max_value=100, help_text="From 0 to 100, with at most 6 decimals.")
    country = ExactText(
        max_length=2,
        required=False,
        allow_blank=True,
        help_text="ISO 3166-1, two capitals. Without: wherever no rate names the country.",
    )
    region = Text(max_length=64, required=False, allow_blank=True, help_text="A part of the country.")
    valid_from = serializers.DateField(required=False, allow_null=True)
    valid_until = serializers.DateField(required=False, allow_null=True, help_text="The last day.")
    replaces = ExactText(
        max_length=64, required=False, help_text="The code of a rate that then ends the day before `valid_from`."
    )


class TaxRateRead(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    percent = serializers.CharField()
    country = serializers.CharField()
    region = serializers.CharField()
    valid_from = serializers.DateField(allow_null=True)
    valid_until = serializers.DateField(allow_null=True)
    created_at = serializers.DateTimeField()
    archived_at = serializers.DateTimeField(allow_null=True)


class TaxRateListQuery(ListQuery):
    country = Text(required=False, max_length=2)


def tax_rate_json(rate: TaxRate) -> dict[str, Any]:
    return {
        "code": rate.code,
        "name": rate.name,
        "percent": exact_text(rate.percent),
        "country": rate.country,
        "region": rate.region,
        "valid_from": rate.valid_from,
        "valid_until": rate.valid_until,
        "created_at": rate.created_at,
        "archived_at": rate.archived_at,
    }
