"""Shapes of simulations and of invoice previews. Meaning is checked by the queries.

Money is in minor units, as text; every name of it ends in `_minor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from billing.api.fields import PeriodRead, period_json
from billing.api.invoice_serializers import InvoiceLineRead, InvoiceTaxRead, content_json
from billing.api.plan_serializers import VersionFields
from billing.domain.currencies import EXPONENTS
from billing.domain.invoices import InvoiceContent
from billing.domain.periods import BillingPeriod as Span
from billing.models import BillingPeriod, PeriodState
from billing.queries.simulation import MAX_CUSTOMERS, SimulatedCustomer, SimulationTotals, Uncompared
from common.api import ListQuery, Moment, StrictSerializer, WholeNumber
from metering.api.serializers import ExactText


class NamedPlan(StrictSerializer):
    """A stored version, a draft one too."""

    code = ExactText(max_length=64)
    version = WholeNumber(min_value=1, required=False, help_text="Default: the plan's latest active one.")


@extend_schema_field(
    PolymorphicProxySerializer(
        component_name="SimulatedPlan", serializers=[VersionFields, NamedPlan], resource_type_field_name=None
    )
)
class SimulatedPlan(serializers.Field[Any, Any, Any, Any]):
    """Prices as a preview takes them, or the name of a stored version: `code`, `version`."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        is_named = isinstance(data, Mapping) and "code" in data
        shape = NamedPlan() if is_named else VersionFields()
        return dict(shape.run_validation(data))


class SimulationWrite(ListQuery):
    plan = SimulatedPlan()
    customers = serializers.ListField(
        child=ExactText(max_length=256),
        required=False,
        min_length=1,
        max_length=MAX_CUSTOMERS,
        help_text="Default: everybody with a subscription; with a default plan, everybody.",
    )

    def get_fields(self) -> dict[str, Any]:
        """`from` is no name that a class can have."""
        return {
            **super().get_fields(),
            "from": Moment(help_text="Periods that begin from then on."),
            "to": Moment(help_text="And before then; at most 366 days later."),
        }


class UncomparedRead(serializers.Serializer):
    currency = serializers.CharField()
    before_minor = serializers.CharField()
    periods = serializers.IntegerField()


class SimulatedCustomerRead(serializers.Serializer):
    customer = serializers.CharField()
    currency = serializers.CharField(help_text="The draft's.")
    periods = serializers.IntegerField()
    before_minor = serializers.CharField()
    after_minor = serializers.CharField()
    difference_minor = serializers.CharField(help_text="Positive: the customer would have paid more.")
    not_compared = UncomparedRead(many=True, help_text="Periods that were charged in other currencies.")
    periods_not_kept = serializers.IntegerField(help_text="Periods whose usage is not kept any more; in no sum.")


class SimulationTotalsRead(serializers.Serializer):
    customers = serializers.IntegerField()
    periods = serializers.IntegerField()
    before_minor = serializers.CharField()
    after_minor = serializers.CharField()
    difference_minor = serializers.CharField()
    pay_more = serializers.IntegerField(help_text="Customers.")
    pay_less = serializers.IntegerField()
    pay_the_same = serializers.IntegerField()
    not_compared = UncomparedRead(many=True)
    periods_not_kept = serializers.IntegerField()


class SimulationRead(serializers.Serializer):
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    totals = SimulationTotalsRead(help_text="Of all customers, whichever are on this page.")
    next_cursor = serializers.CharField(allow_null=True)

    def get_fields(self) -> dict[str, Any]:
        """`data` is what a serializer itself has."""
        return {**super().get_fields(), "data": SimulatedCustomerRead(many=True)}


def simulation_json(
    currency: str, totals: SimulationTotals, rows: Iterable[SimulatedCustomer], next_cursor: str | None
) -> dict[str, Any]:
    return {
        "currency": currency,
        "currency_exponent": EXPONENTS[currency],
        "totals": {
            "customers": totals.customer_count,
            "periods": totals.period_count,
            "before_minor": str(totals.before_minor),
            "after_minor": str(totals.after_minor),
            "difference_minor": str(totals.difference_minor),
            "pay_more": totals.more_count,
            "pay_less": totals.less_count,
            "pay_the_same": totals.same_count,
            "not_compared": _uncompared_json(totals.uncompared),
            "periods_not_kept": totals.unknown_count,
        },
        "data": [_customer_json(row, currency) for row in rows],
        "next_cursor": next_cursor,
    }


def _customer_json(row: SimulatedCustomer, currency: str) -> dict[str, Any]:
    return {
        "customer": row.customer.external_id,
        "currency": currency,
        "periods": row.period_count,
        "before_minor": str(row.before_minor),
        "after_minor": str(row.after_minor),
        "difference_minor": str(row.difference_minor),
        "not_compared": _uncompared_json(row.uncompared),
        "periods_not_kept": row.unknown_count,
    }


def _uncompared_json(uncompared: Mapping[str, Uncompared]) -> list[dict[str, Any]]:
    return [
        {"currency": each.currency, "before_minor": str(each.before_minor), "periods": each.period_count}
        for _, each in sorted(uncompared.items())
    ]


# --- invoice previews -----------------------------------------------------------------------------------------


class InvoicePreviewWrite(StrictSerializer):
    subscription = ExactText(max_length=20, help_text="Its id.")

    def validate_subscription(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise serializers.ValidationError("An id is digits.")
        return int(text)


class InvoicePreviewRead(serializers.Serializer):
    subscription = serializers.CharField()
    customer = serializers.CharField()
    period = PeriodRead()
    period_state = serializers.ChoiceField(choices=[PeriodState.OPEN, PeriodState.GRACE])
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    subtotal_minor = serializers.CharField()
    taxes = InvoiceTaxRead(many=True)
    tax_minor = serializers.CharField()
    total_minor = serializers.CharField(help_text="Lines and taxes.")
    credits_minor = serializers.CharField(help_text="What the customer's credits would pay of it now.")
    due_minor = serializers.CharField()
    known_at = serializers.DateTimeField(help_text="Every event known then is in it.")
    lines = InvoiceLineRead(many=True, help_text="Adjustments of earlier periods are among them.")
    snapshot = serializers.DictField(help_text="What would be printed besides.")


def invoice_preview_json(period: BillingPeriod, content: InvoiceContent) -> dict[str, Any]:
    return {
        "subscription": str(period.subscription_id),
        "customer": period.subscription.customer.external_id,
        "period": period_json(Span(period.starts_at, period.ends_at, period.is_trial)),
        "period_state": period.state,
        **content_json(content),
    }
