"""Shapes of the gateways' billing usage, in the words, and the numbers, of another system's page."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing.api.fields import MonthNameField, period_json
from billing.api.spend_serializers import step_json
from billing.queries.billing_usage import CURRENT, BillingUsage, PeriodUsage, unit_rate
from common.api import StrictSerializer, Text
from common.numbers import exact_text
from metering.api.serializers import ExactText


class BillingUsageQuery(StrictSerializer):
    user = ExactText(max_length=256, required=False, help_text="A customer's id. A key bound to one needs none.")
    period = MonthNameField(
        default=CURRENT,
        help_text="The month in which the billing periods begin, like 2025-01; or current, in which the running one "
        "began, or last, the month before.",
    )
    metric = Text(max_length=64, required=False, help_text="Default: api_units.")


class ExactNumber(serializers.DecimalField):
    """A JSON number, every digit of which is exact."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=None, decimal_places=None, coerce_to_string=False, **options)


class PeriodUsageRead(serializers.Serializer):
    included_units = ExactNumber()
    used_units = ExactNumber()
    overage_units = ExactNumber()
    overage_rate_cents = ExactNumber(
        allow_null=True,
        help_text="Of one unit, in the currency's minor unit; null where units differ in price: see `pricing`, "
        "`periods`.",
    )
    overage_amount_cents = serializers.IntegerField()
    pricing = serializers.ListField(
        child=serializers.DictField(), required=False, help_text="Every price, where there is not just one per unit."
    )


class NamedPeriodUsageRead(PeriodUsageRead):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    is_trial = serializers.BooleanField()
    plan = serializers.CharField()


class BillingUsageRead(PeriodUsageRead):
    user_id = serializers.CharField()
    period = serializers.CharField()
    plan = serializers.CharField()
    periods = NamedPeriodUsageRead(
        many=True, required=False, help_text="Where several billing periods begin in the month: each of them."
    )


def billing_usage_json(usage: BillingUsage, *, period: str) -> dict[str, Any]:
    """Return the page's fields; beside them `pricing` where one rate does not say it all, and `periods` where several
    begin in the month."""
    answer = {
        "user_id": usage.customer.external_id,
        "period": period,
        "plan": usage.version.plan.name,
        **_units_json(usage),
    }
    if len(usage.periods) == 1:
        return answer | _pricing_json(usage.periods[0])
    periods = [
        {
            **period_json(part.period),
            "plan": part.version.plan.name,
            **_units_json(part),
            **_pricing_json(part),
        }
        for part in usage.periods
    ]
    return answer | {"periods": periods}


def _units_json(usage: BillingUsage | PeriodUsage) -> dict[str, Any]:
    return {
        "included_units": _number(usage.included_units),
        "used_units": _number(usage.used_units),
        "overage_units": _number(usage.overage_units),
        "overage_rate_cents": _number(usage.overage_rate),
        "overage_amount_cents": usage.amount_minor,
    }


def _pricing_json(usage: PeriodUsage) -> dict[str, Any]:
    if len(usage.lines) == 1 and usage.overage_rate is not None:
        return {}
    prices = [
        {
            "filters": line.charge.filters,
            "model": line.charge.price.model.value,
            "included_units": _number(line.charge.price.included_quantity),
            "used_units": _number(line.rated.quantity),
            "overage_units": _number(line.rated.overage_quantity),
            "overage_rate_cents": _number(unit_rate(line.charge)),
            "overage_amount_cents": line.rated.amount_minor,
            "steps": [step_json(step) for step in line.rated.steps],
        }
        for line in usage.lines
    ]
    return {"pricing": prices}


def _number(value: Decimal | None) -> Decimal | None:
    """Return the number without the zeros with which the database fills its decimals."""
    return None if value is None else Decimal(exact_text(value))
