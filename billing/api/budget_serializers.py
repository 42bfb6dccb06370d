"""Shapes of budgets. Amounts are whole minor units; they leave as text."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.api.fields import PeriodRead, period_json
from billing.domain.budgets import MAX_LEVEL, MAX_LEVELS
from billing.domain.currencies import EXPONENTS
from billing.models import BudgetCrossing
from billing.models.watching import default_levels
from billing.queries.budgets import BudgetStanding
from billing.services.budgets import MAX_AMOUNT_MINOR, MAX_EMAIL_CHARACTERS
from common.api import StrictSerializer, Text, WholeNumber
from common.numbers import exact_text


class BudgetWrite(StrictSerializer):
    amount_minor = WholeNumber(min_value=1, max_value=MAX_AMOUNT_MINOR, help_text="In the currency of the plan.")
    levels = serializers.ListField(
        child=WholeNumber(min_value=1, max_value=MAX_LEVEL),
        default=default_levels,
        min_length=1,
        max_length=MAX_LEVELS,
        help_text="Percentages of the amount, ascending; each is told once in a billing period.",
    )
    email = Text(
        default="",
        allow_blank=True,
        max_length=MAX_EMAIL_CHARACTERS,
        help_text="Who is written to; empty: the address of the customer's billing profile, if there is one.",
    )


class BudgetCrossingRead(serializers.Serializer):
    level = serializers.IntegerField()
    spend_minor = serializers.CharField()
    budget_minor = serializers.CharField(help_text="As it was then.")
    crossed_at = serializers.DateTimeField()


class BudgetRead(serializers.Serializer):
    subscription = serializers.CharField()
    customer = serializers.CharField()
    amount_minor = serializers.CharField()
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    levels = serializers.ListField(child=serializers.IntegerField())
    email = serializers.CharField(allow_blank=True)
    period = PeriodRead()
    spend_minor = serializers.CharField()
    spend_currency = serializers.CharField()
    is_comparable = serializers.BooleanField(
        help_text="False: the plan has another currency now, and nothing is told until the budget is set again."
    )
    percent = serializers.CharField(allow_null=True, help_text="Rounded down to hundredths. Null: not comparable.")
    crossings = BudgetCrossingRead(many=True, help_text="Of the current period, by level.")


def budget_json(standing: BudgetStanding, *, customer: str) -> dict[str, Any]:
    budget = standing.budget
    return {
        "subscription": str(budget.subscription_id),
        "customer": customer,
        "amount_minor": str(budget.amount_minor),
        "currency": budget.currency,
        "currency_exponent": EXPONENTS[budget.currency],
        "levels": budget.levels,
        "email": budget.email,
        "period": period_json(standing.period),
        "spend_minor": str(standing.spend_minor),
        "spend_currency": standing.spend_currency,
        "is_comparable": standing.is_comparable,
        "percent": None if standing.percent is None else exact_text(standing.percent),
        "crossings": [_crossing_json(crossing) for crossing in standing.crossings],
    }


def _crossing_json(crossing: BudgetCrossing) -> dict[str, Any]:
    return {
        "level": crossing.level,
        "spend_minor": str(crossing.spend_minor),
        "budget_minor": str(crossing.budget_minor),
        "crossed_at": crossing.crossed_at,
    }
