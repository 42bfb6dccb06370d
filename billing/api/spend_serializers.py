"""Shapes of spend, by line and step and by day, and of previews of a plan.

Money is in minor units, as text; every name of it ends in `_minor`.
"""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.api.fields import MonthField, PeriodRead, period_json
from billing.api.plan_serializers import VersionFields, decimal_text
from billing.domain.currencies import EXPONENTS
from billing.domain.prices import PriceModel
from billing.domain.rating import RatedLine, Step, StepKind
from billing.queries.charges import Charge
from billing.queries.preview import GivenSpend
from billing.queries.quantities import Unpriced
from billing.queries.spend import Spend, SubscriptionSpend
from billing.queries.spend_days import SpendDays
from billing.queries.terms import SegmentTerms
from common.api import StrictSerializer
from metering.api.serializers import ExactText, Quantity

MAX_USAGE = 1000


class StepAmountsRead(serializers.Serializer):
    """What one step added, and by which quantities; the amounts of all steps add up to the line's."""

    amount_minor = serializers.CharField(help_text="With fractions; negative where it takes away.")
    from_quantity = serializers.CharField(allow_null=True, help_text="Counted after the included quantity.")
    to_quantity = serializers.CharField(allow_null=True)
    quantity = serializers.CharField(allow_null=True, help_text="Units; packages in a packages step.")
    unit_amount = serializers.CharField(allow_null=True)
    flat_amount = serializers.CharField(allow_null=True)


class StepRead(StepAmountsRead):
    """What one rule added; the amounts of all steps add up to the line's."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in StepKind])


class ProjectedRead(serializers.Serializer):
    quantity = serializers.CharField()
    amount_minor = serializers.CharField()


class SpendLineRead(serializers.Serializer):
    name = serializers.CharField()
    metric = serializers.CharField(allow_null=True)
    filters = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    model = serializers.ChoiceField(choices=PriceModel.choices)
    quantity = serializers.CharField()
    included_quantity = serializers.CharField()
    overage_quantity = serializers.CharField()
    amount_minor = serializers.CharField()
    start = serializers.DateTimeField(
        allow_null=True, help_text="Of the part of the period in which this price holds; null for given quantities."
    )
    end = serializers.DateTimeField(allow_null=True)
    steps = StepRead(many=True)
    projected = ProjectedRead(allow_null=True, help_text="Null: too early in the period to tell.")


class UnpricedRead(serializers.Serializer):
    metric = serializers.CharField()
    quantity = serializers.CharField()


class SpendRead(serializers.Serializer):
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    period = PeriodRead()
    complete_through = serializers.DateTimeField()
    total_minor = serializers.CharField()
    projected_total_minor = serializers.CharField(allow_null=True)
    lines = SpendLineRead(many=True)
    unpriced = UnpricedRead(many=True, help_text="Usage of priced metrics that no price charges.")


class SubscriptionSpendRead(SpendRead):
    subscription = serializers.CharField()
    customer = serializers.CharField()
    plan = serializers.CharField()
    plan_version = serializers.IntegerField()


def subscription_spend_json(found: SubscriptionSpend) -> dict[str, Any]:
    return {
        "subscription": str(found.subscription.pk),
        "customer": found.subscription.customer.external_id,
        "plan": found.version.plan.code,
        "plan_version": found.version.number,
        **spend_json(found.spend),
    }


class DaySpendRead(serializers.Serializer):
    date = serializers.DateField(help_text="Of the subscription's zone.")
    amount_minor = serializers.CharField(help_text="What the day added; below zero where it made the period cheaper.")


class SpendDaysRead(serializers.Serializer):
    subscription = serializers.CharField()
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    zone = serializers.CharField()
    period = PeriodRead()
    complete_through = serializers.DateTimeField()
    total_minor = serializers.CharField(help_text="The sum of the days, and the total of the current spend.")
    days = DaySpendRead(many=True)


def spend_days_json(found: SpendDays) -> dict[str, Any]:
    return {
        "subscription": str(found.subscription.pk),
        "currency": found.currency,
        "currency_exponent": EXPONENTS[found.currency],
        "zone": found.subscription.zone,
        "period": period_json(found.period),
        "complete_through": found.complete_through,
        "total_minor": str(found.total_minor),
        "days": [{"date": day.day, "amount_minor": str(day.amount_minor)} for day in found.days],
    }


def spend_json(spend: Spend) -> dict[str, Any]:
    projected = spend.projected_total_minor
    return {
        "currency": spend.currency,
        "currency_exponent": EXPONENTS[spend.currency],
        "period": period_json(spend.period),
        "complete_through": spend.complete_through,
        "total_minor": str(spend.total_minor),
        "projected_total_minor": None if projected is None else str(projected),
        "lines": [_line_json(line.charge, line.rated, line.projected, line.segment) for line in spend.lines],
        "unpriced": [_unpriced_json(rest) for rest in spend.unpriced],
    }


def given_json(given: GivenSpend) -> dict[str, Any]:
    """Return the shape of a spend for quantities, which have no period and are not projected."""
    return {
        "currency": given.currency,
        "currency_exponent": EXPONENTS[given.currency],
        "period": None,
        "complete_through": None,
        "total_minor": str(given.total_minor),
        "projected_total_minor": None,
        "lines": [_line_json(charge, line, None) for charge, line in zip(given.charges, given.lines, strict=True)],
        "unpriced": [_unpriced_json(rest) for rest in given.unpriced],
    }


def _unpriced_json(rest: Unpriced) -> dict[str, Any]:
    return {"metric": rest.metric.code, "quantity": decimal_text(rest.quantity)}


def _line_json(
    charge: Charge, rated: RatedLine, projected: RatedLine | None, segment: SegmentTerms | None = None
) -> dict[str, Any]:
    return {
        "name": charge.label,
        "metric": charge.metric.code if charge.metric else None,
        "filters": charge.filters,
        "model": charge.price.model,
        "start": segment.start if segment else None,
        "end": segment.end if segment else None,
        **rated_json(rated),
        "projected": None
        if projected is None
        else {"quantity": decimal_text(projected.quantity), "amount_minor": str(projected.amount_minor)},
    }


def rated_json(rated: RatedLine) -> dict[str, Any]:
    return {
        "quantity": decimal_text(rated.quantity),
        "included_quantity": decimal_text(rated.included_quantity),
        "overage_quantity": decimal_text(rated.overage_quantity),
        "amount_minor": str(rated.amount_minor),
        "steps": [step_json(step) for step in rated.steps],
    }


def step_json(step: Step) -> dict[str, Any]:
    return {
        "kind": step.kind,
        "amount_minor": decimal_text(step.amount),
        "from_quantity": decimal_text(step.from_quantity),
        "to_quantity": decimal_text(step.to_quantity),
        "quantity": decimal_text(step.quantity),
        "unit_amount": decimal_text(step.unit_amount),
        "flat_amount": decimal_text(step.flat_amount),
    }


# --- previews -------------------------------------------------------------------------------------------------


class GivenUsage(StrictSerializer):
    metric = ExactText(max_length=64)
    quantity = Quantity()
    dimensions = serializers.DictField(child=ExactText(max_length=1000), default=dict)


class PreviewWrite(StrictSerializer):
    """A draft plan, and either quantities or a customer whose real usage of a calendar month it prices."""

    plan = VersionFields()
    usage = serializers.ListField(child=GivenUsage(), required=False, max_length=MAX_USAGE)
    customer = ExactText(max_length=256, required=False)
    period = MonthField(required=False, help_text="With `customer`; a month of its time zone, default: this one.")

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if ("usage" in attributes) == ("customer" in attributes):
            message = "Give exactly one of usage and customer."
            raise serializers.ValidationError({"usage": serializers.ErrorDetail(message, "one_of")})
        if "period" in attributes and "customer" not in attributes:
            message = "Only a customer's usage has a period."
            raise serializers.ValidationError({"period": serializers.ErrorDetail(message, "invalid_combination")})
        return attributes


class PreviewRead(SpendRead):
    period = PeriodRead(allow_null=True, help_text="Null where quantities were given.")
    complete_through = serializers.DateTimeField(allow_null=True)
