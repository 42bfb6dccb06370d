"""Shapes of plans: what is accepted and what is answered. Meaning is checked by the services.

Amounts are in the minor unit of the plan's currency (cents, yen, fils), with fractions: a tenth of a cent is "0.1".
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.domain.currencies import EXPONENTS
from billing.domain.prices import MAX_TIERS, Price, PriceModel, Tier
from billing.models import Plan, PlanVersion, VersionState
from billing.queries.charges import Charge
from billing.services.plans import MAX_PRICES, MAX_TRIAL_DAYS, PriceDefinition, VersionDefinition
from common.api import Flag, ListQuery, StrictSerializer, Text, WholeNumber
from common.numbers import exact_text
from metering.api.serializers import CODE, DimensionFilters, ExactText, Quantity

MAX_FILTERS = 16
PLAIN_TERMS = ("amount", "package_size", "minimum", "maximum")


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": MAX_FILTERS,
        "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    }
)
class PriceFilters(DimensionFilters):
    """The filters of a price, which are of a bounded number."""

    def to_internal_value(self, data: Any) -> dict[str, list[str]]:
        if isinstance(data, dict) and len(data) > MAX_FILTERS:
            raise serializers.ValidationError("A filter is an object of dimensions and their values.")
        return super().to_internal_value(data)


class TierWrite(StrictSerializer):
    up_to = Quantity(allow_null=True, help_text="The last unit of the tier; null in the last tier.")
    unit_amount = Quantity(min_value=0)
    flat_amount = Quantity(min_value=0, default=Decimal(0), help_text="Once, when the tier is reached.")


class PriceWrite(StrictSerializer):
    metric = ExactText(max_length=64, required=False, allow_null=True, help_text="Null: a fee of the plan itself.")
    name = Text(max_length=200, required=False, allow_blank=True)
    model = serializers.ChoiceField(choices=PriceModel.choices)
    amount = Quantity(
        min_value=0,
        required=False,
        allow_null=True,
        help_text="Of the whole (flat), a unit or a package; in percent_of_amount the percentage.",
    )
    package_size = Quantity(required=False, allow_null=True)
    tiers = serializers.ListField(child=TierWrite(), required=False, max_length=MAX_TIERS)
    included_quantity = Quantity(min_value=0, default=Decimal(0), help_text="Costs nothing; the rest is priced.")
    minimum = Quantity(min_value=0, required=False, allow_null=True, help_text="Of the line, also without usage.")
    maximum = Quantity(min_value=0, required=False, allow_null=True)
    filters = PriceFilters(
        default=dict, help_text="Only usage with these values. Without: what no other price of the metric charges."
    )


class VersionFields(StrictSerializer):
    currency = ExactText(max_length=3, help_text="ISO 4217, of all prices.")
    trial_days = WholeNumber(min_value=0, max_value=MAX_TRIAL_DAYS, default=0)
    prices = serializers.ListField(child=PriceWrite(), max_length=MAX_PRICES)


class VersionWrite(VersionFields):
    """A version as a whole: what replaces a draft."""


class NewVersion(VersionFields):
    state = serializers.ChoiceField(choices=VersionState.choices, default=VersionState.DRAFT)


class PlanWrite(VersionFields):
    code = ExactText(max_length=64)
    name = Text(max_length=200)
    description = Text(max_length=2000, required=False, allow_blank=True)
    default = Flag(default=False, help_text="Prices customers without a subscription, where one is asked for.")
    state = serializers.ChoiceField(choices=VersionState.choices, default=VersionState.ACTIVE)

    def validate_code(self, code: str) -> str:
        if not CODE.match(code):
            raise serializers.ValidationError("A code has lower-case letters, digits and _ . : -.")
        return code


class PlanChange(StrictSerializer):
    """What may change of a plan. What it costs never does: add a version."""

    name = Text(max_length=200)
    description = Text(max_length=2000, allow_blank=True)
    default = Flag()


class PlanListQuery(ListQuery):
    archived = serializers.ChoiceField(choices=["true", "false"], required=False, help_text="Default: both.")


def version_definition(body: dict[str, Any]) -> VersionDefinition:
    """Return what the fields of a version say. Takes them out of the body."""
    currency = body.pop("currency")
    prices = [price_definition(price, currency) for price in body.pop("prices")]
    return VersionDefinition(currency, prices, body.pop("trial_days"))


def price_definition(price: dict[str, Any], currency: str) -> PriceDefinition:
    terms = Price(
        model=PriceModel(price["model"]),
        currency=currency,
        tiers=tuple(Tier(**tier) for tier in price.get("tiers", ())),
        included_quantity=price["included_quantity"],
        **{name: price.get(name) for name in PLAIN_TERMS},
    )
    return PriceDefinition(terms, price.get("metric"), price["filters"], price.get("name", ""))


# --- answers --------------------------------------------------------------------------------------------------


class TierRead(serializers.Serializer):
    up_to = serializers.CharField(allow_null=True)
    unit_amount = serializers.CharField()
    flat_amount = serializers.CharField()


class PriceRead(serializers.Serializer):
    metric = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    model = serializers.ChoiceField(choices=PriceModel.choices)
    amount = serializers.CharField(allow_null=True)
    package_size = serializers.CharField(allow_null=True)
    tiers = TierRead(many=True)
    included_quantity = serializers.CharField()
    minimum = serializers.CharField(allow_null=True)
    maximum = serializers.CharField(allow_null=True)
    filters = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))


class VersionRead(serializers.Serializer):
    plan = serializers.CharField()
    number = serializers.IntegerField()
    state = serializers.ChoiceField(choices=VersionState.choices)
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField(help_text="Decimals of the major unit: the minor one is 10^-n of it.")
    trial_days = serializers.IntegerField()
    prices = PriceRead(many=True)
    created_at = serializers.DateTimeField()
    activated_at = serializers.DateTimeField(allow_null=True)


class PlanRead(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    default = serializers.BooleanField()
    current_version = VersionRead(allow_null=True, help_text="What a new subscription gets.")
    created_at = serializers.DateTimeField()
    archived_at = serializers.DateTimeField(allow_null=True)


def plan_json(plan: Plan, current: PlanVersion | None, charges: list[Charge]) -> dict[str, Any]:
    return {
        "code": plan.code,
        "name": plan.name,
        "description": plan.description,
        "default": plan.is_default,
        "current_version": None if current is None else version_json(plan, current, charges),
        "created_at": plan.created_at,
        "archived_at": plan.archived_at,
    }


def version_json(plan: Plan, version: PlanVersion, charges: list[Charge]) -> dict[str, Any]:
    return {
        "plan": plan.code,
        "number": version.number,
        "state": version.state,
        "currency": version.currency,
        "currency_exponent": EXPONENTS[version.currency],
        "trial_days": version.trial_days,
        "prices": [price_json(charge) for charge in charges],
        "created_at": version.created_at,
        "activated_at": version.activated_at,
    }


def price_json(charge: Charge) -> dict[str, Any]:
    price = charge.price
    return {
        "metric": charge.metric.code if charge.metric else None,
        "name": charge.name,
        "model": price.model,
        **{name: decimal_text(getattr(price, name)) for name in PLAIN_TERMS},
        "tiers": [
            {
                "up_to": decimal_text(tier.up_to),
                "unit_amount": decimal_text(tier.unit_amount),
                "flat_amount": decimal_text(tier.flat_amount),
            }
            for tier in price.tiers
        ],
        "included_quantity": decimal_text(price.included_quantity),
        "filters": charge.filters,
    }


def decimal_text(value: Decimal | None) -> str | None:
    return None if value is None else exact_text(value)
