"""Shapes of subscriptions, spend, previews and the gateway's billing usage. Meaning is checked by the services.

Money is in minor units, as text; every name of it ends in `_minor`. The billing usage of gateways speaks the words,
and the numbers, of another system's page.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing.api.plan_serializers import VersionFields, decimal_text
from billing.domain.currencies import EXPONENTS
from billing.domain.periods import BillingPeriod, period_at
from billing.domain.prices import PriceModel
from billing.domain.rating import RatedLine, Step, StepKind
from billing.models import Subscription, SubscriptionPause, SubscriptionPhase
from billing.queries.billing_usage import BillingUsage, PeriodUsage, unit_rate
from billing.queries.charges import Charge
from billing.queries.preview import GivenSpend
from billing.queries.quantities import Unpriced
from billing.queries.spend import Spend, SubscriptionSpend
from billing.queries.terms import SegmentTerms
from billing.services.plans import MAX_TRIAL_DAYS
from billing.services.subscriptions import When
from common.api import ListQuery, Moment, StrictSerializer, Text, WholeNumber
from common.numbers import exact_text
from metering.api.serializers import ExactText, Quantity

MONTH = re.compile(r"(\d{4})-(\d{2})\Z", re.ASCII)
FIRST_YEAR, LAST_YEAR = 1970, 9000
MAX_USAGE = 1000
MAX_KEY_CHARACTERS = 255
WHEN = [when.value for when in When]


class MonthField(Text):
    """A month, `2025-01`, as its two numbers."""

    def to_internal_value(self, data: Any) -> Any:
        month = MONTH.match(super().to_internal_value(data))
        if month is None or not FIRST_YEAR <= int(month[1]) <= LAST_YEAR or not 1 <= int(month[2]) <= 12:
            raise serializers.ValidationError("Give a month like 2025-01.", "invalid_period")
        return int(month[1]), int(month[2])


class IdempotencyKey(ExactText):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MAX_KEY_CHARACTERS, **options)


# --- subscriptions --------------------------------------------------------------------------------------------


class SubscriptionWrite(StrictSerializer):
    customer = ExactText(max_length=256)
    plan = ExactText(max_length=64)
    plan_version = WholeNumber(min_value=1, required=False, help_text="Default: the plan's latest active one.")
    start = Moment(required=False, help_text="Default: now. In the past: what was used since is charged.")
    anchor_day = WholeNumber(
        min_value=1,
        max_value=31,
        required=False,
        help_text="Day on which periods begin; default: the first's.",
    )
    zone = ExactText(max_length=64, required=False, help_text="Default: the customer's, else the organization's.")
    trial_days = WholeNumber(min_value=0, max_value=MAX_TRIAL_DAYS, required=False, help_text="Default: the version's.")
    prorated = serializers.BooleanField(
        default=True, help_text="Whether fees hold in proportion to the time where a period is cut; else for all of it."
    )
    idempotency_key = IdempotencyKey(
        required=False,
        help_text="Or the header Idempotency-Key. The same request again answers with the same subscription.",
    )


class SubscriptionListQuery(ListQuery):
    customer = Text(required=False, max_length=256)


class CancelWrite(StrictSerializer):
    when = serializers.ChoiceField(choices=WHEN, default=When.PERIOD_END.value)


class ChangePlanWrite(StrictSerializer):
    plan = ExactText(max_length=64)
    plan_version = WholeNumber(min_value=1, required=False)
    when = serializers.ChoiceField(
        choices=WHEN,
        default=When.PERIOD_END.value,
        help_text="Nothing is prorated: `now` charges the whole current period under the new plan.",
    )


class PeriodRead(serializers.Serializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    is_trial = serializers.BooleanField()


class PlanChangeRead(serializers.Serializer):
    plan = serializers.CharField()
    plan_version = serializers.IntegerField()
    starts_at = serializers.DateTimeField()


class PauseWrite(StrictSerializer):
    when = serializers.ChoiceField(choices=WHEN, default=When.NOW.value)
    resumes_at = Moment(required=False, help_text="Default: it lasts until somebody resumes it.")


class PauseRead(serializers.Serializer):
    start = serializers.DateTimeField()
    resumes_at = serializers.DateTimeField(allow_null=True)


class SubscriptionRead(serializers.Serializer):
    id = serializers.CharField()
    customer = serializers.CharField()
    plan = serializers.CharField()
    plan_version = serializers.IntegerField()
    status = serializers.ChoiceField(choices=["scheduled", "trial", "active", "canceling", "ended"])
    start = serializers.DateTimeField()
    anchor_day = serializers.IntegerField()
    zone = serializers.CharField()
    trial_ends_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    canceled_at = serializers.DateTimeField(allow_null=True)
    current_period = PeriodRead(allow_null=True)
    scheduled_change = PlanChangeRead(allow_null=True)
    prorated = serializers.BooleanField()
    pause = PauseRead(allow_null=True, help_text="The one that it is in, or the next one.")
    created_at = serializers.DateTimeField()


def subscription_json(
    subscription: Subscription, phases: list[SubscriptionPhase], pause: SubscriptionPause | None, now: datetime
) -> dict[str, Any]:
    current = [phase for phase in phases if phase.starts_at <= max(now, subscription.starts_at)][-1]
    coming = next((phase for phase in phases if phase.starts_at > current.starts_at), None)
    period = period_at(subscription.cycle, now)
    return {
        "id": str(subscription.pk),
        "customer": subscription.customer.external_id,
        "plan": current.version.plan.code,
        "plan_version": current.version.number,
        "status": subscription.status_at(now),
        "start": subscription.starts_at,
        "anchor_day": subscription.anchor_day,
        "zone": subscription.zone,
        "trial_ends_at": subscription.trial_ends_at,
        "ends_at": subscription.ends_at,
        "canceled_at": subscription.canceled_at,
        "current_period": None if period is None else period_json(period),
        "scheduled_change": None
        if coming is None
        else {
            "plan": coming.version.plan.code,
            "plan_version": coming.version.number,
            "starts_at": coming.starts_at,
        },
        "prorated": subscription.is_prorated,
        "pause": None if pause is None else {"start": pause.starts_at, "resumes_at": pause.ends_at},
        "created_at": subscription.created_at,
    }


def period_json(period: BillingPeriod) -> dict[str, Any]:
    return {"start": period.start, "end": period.end, "is_trial": period.is_trial}


# --- spend ----------------------------------------------------------------------------------------------------


class StepRead(serializers.Serializer):
    """What one rule added; the amounts of all steps add up to the line's."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in StepKind])
    amount_minor = serializers.CharField(help_text="With fractions; negative where it takes away.")
    from_quantity = serializers.CharField(allow_null=True, help_text="Counted after the included quantity.")
    to_quantity = serializers.CharField(allow_null=True)
    quantity = serializers.CharField(allow_null=True, help_text="Units; packages in a packages step.")
    unit_amount = serializers.CharField(allow_null=True)
    flat_amount = serializers.CharField(allow_null=True)


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
        "steps": [_step_json(step) for step in rated.steps],
    }


def _step_json(step: Step) -> dict[str, Any]:
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


# --- the billing usage of gateways ----------------------------------------------------------------------------


class BillingUsageQuery(StrictSerializer):
    user = ExactText(max_length=256, required=False, help_text="A customer's id. A key bound to one needs none.")
    period = MonthField(help_text="The month in which the billing periods begin, like 2025-01.")
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
            "steps": [_step_json(step) for step in line.rated.steps],
        }
        for line in usage.lines
    ]
    return {"pricing": prices}


def _number(value: Decimal | None) -> Decimal | None:
    """Return the number without the zeros with which the database fills its decimals."""
    return None if value is None else Decimal(exact_text(value))
