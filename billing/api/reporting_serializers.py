"""Shapes of usage reporting. Quantities are exact, as text."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.api.fields import MonthNameField
from billing.domain.reporting import ReportState
from billing.models import UsageReport
from billing.queries.reporting import PlannedReport
from billing.services.reporting import PlanFailure
from common.api import Flag, ListQuery, StrictSerializer, Text
from common.numbers import exact_text
from metering.api.serializers import ExactText

# In the answer of one call; the list has them all.
MAX_SHOWN = 1000
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class QueryFlag(Text):
    """`true` or `false` in a query."""

    def to_internal_value(self, data: Any) -> Any:
        flag = TRUTHS.get(super().to_internal_value(data))
        if flag is None:
            raise serializers.ValidationError("Use true or false.", "invalid")
        return flag


class ExactQuantity(serializers.CharField):
    """A decimal with every digit and no exponent."""

    def to_representation(self, value: Any) -> str:
        return exact_text(value)


PERIOD_HELP = (
    "The month in which the billing periods begin, like 2025-01, or current or last. "
    "Default: every period of which Stripe still takes usage."
)


class ReportQuery(StrictSerializer):
    period = MonthNameField(required=False, help_text=PERIOD_HELP)
    dry_run = QueryFlag(required=False, help_text="true: say what would be sent, and send nothing.")


class ReportWrite(StrictSerializer):
    """The same as the query; one of them says it."""

    period = MonthNameField(required=False, help_text=PERIOD_HELP)
    dry_run = Flag(required=False, help_text="true: say what would be sent, and send nothing.")


class ReportListQuery(ListQuery):
    period = MonthNameField(required=False, help_text="Default: all.")
    state = serializers.ChoiceField(choices=[state.value for state in ReportState], required=False)
    customer = Text(required=False, max_length=256)


class WindowRead(serializers.Serializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()


class PlannedReportRead(serializers.Serializer):
    customer = serializers.CharField()
    stripe_customer_id = serializers.CharField()
    subscription = serializers.CharField()
    metric = serializers.CharField()
    event_name = serializers.CharField()
    period = serializers.CharField(help_text="The month in which the billing period begins.")
    window = WindowRead()
    sequence = serializers.IntegerField(help_text="0: the window's usage; from 1 on a correction of it.")
    quantity = serializers.CharField(help_text="Signed: a correction is the difference.")
    timestamp = serializers.DateTimeField(help_text="When Stripe is told that it was used.")


class UsageReportRead(PlannedReportRead):
    id = serializers.CharField()
    identifier = serializers.CharField(help_text="Stripe's name of the meter event.")
    state = serializers.ChoiceField(choices=[state.value for state in ReportState])
    attempts = serializers.IntegerField()
    last_error = serializers.CharField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    delivered_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class FailureRead(serializers.Serializer):
    customer = serializers.CharField()
    subscription = serializers.CharField()
    metric = serializers.CharField()
    period = serializers.CharField()
    code = serializers.CharField()
    message = serializers.CharField()


class UsageReportRunRead(serializers.Serializer):
    period = serializers.CharField(allow_null=True)
    dry_run = serializers.BooleanField()
    is_complete = serializers.BooleanField(help_text="false: the rest goes on in the background; of a dry run, not.")
    planned = serializers.IntegerField(help_text="Reports that were lacking.")
    answers = serializers.DictField(child=serializers.IntegerField(), help_text="What Stripe answered, how often.")
    stopped_by = serializers.CharField(help_text="Why reports that were due were not sent; empty: all were.")
    states = serializers.DictField(child=serializers.IntegerField(), help_text="The period's reports by state.")
    failures = FailureRead(many=True)
    reports = PlannedReportRead(many=True, help_text=f"What was lacking, at most {MAX_SHOWN} of it.")


class StripeCustomerWrite(StrictSerializer):
    stripe_customer_id = serializers.RegexField(
        r"\Acus_[A-Za-z0-9_]{1,200}\Z", error_messages={"invalid": "A customer of Stripe is named like cus_Q4sh1m2."}
    )


class StripeCustomerRead(serializers.Serializer):
    customer = serializers.CharField(source="customer.external_id")
    stripe_customer_id = serializers.CharField()
    created_at = serializers.DateTimeField()


class StripeMeterWrite(StrictSerializer):
    event_name = ExactText(max_length=100, help_text="Of a meter that sums, without a time window.")


class StripeMeterRead(serializers.Serializer):
    metric = serializers.CharField(source="metric.code")
    event_name = serializers.CharField()
    created_at = serializers.DateTimeField()


class StripeDriftRead(serializers.Serializer):
    customer = serializers.CharField(source="customer.external_id")
    metric = serializers.CharField(source="metric.code")
    day = serializers.DateTimeField(help_text="When the UTC day begins.")
    ledger_quantity = ExactQuantity(help_text="What was used.")
    stripe_quantity = ExactQuantity(help_text="What Stripe counts.")
    found_at = serializers.DateTimeField()
    checked_at = serializers.DateTimeField()


def planned_json(planned: PlannedReport) -> dict[str, Any]:
    subscription = planned.target.subscription
    return {
        "customer": subscription.customer.external_id,
        "stripe_customer_id": planned.target.stripe_customer_id,
        "subscription": str(subscription.pk),
        "metric": planned.meter.metric.code,
        "event_name": planned.meter.event_name,
        "period": planned.month,
        "window": {"start": planned.window.start, "end": planned.window.end},
        "sequence": planned.part.sequence,
        "quantity": exact_text(planned.part.quantity),
        "timestamp": planned.window.event_time,
    }


def report_json(report: UsageReport) -> dict[str, Any]:
    return {
        "id": str(report.pk),
        "customer": report.subscription.customer.external_id,
        "stripe_customer_id": report.stripe_customer_id,
        "subscription": str(report.subscription_id),
        "metric": report.metric.code,
        "event_name": report.event_name,
        "period": report.month,
        "window": {"start": report.window_start, "end": report.window_end},
        "sequence": report.sequence,
        "quantity": exact_text(report.quantity),
        "timestamp": report.event_time,
        "identifier": report.identifier,
        "state": report.state,
        "attempts": report.attempts,
        "last_error": report.last_error,
        "next_attempt_at": report.next_attempt_at,
        "delivered_at": report.delivered_at,
        "created_at": report.created_at,
    }


def failure_json(failure: PlanFailure) -> dict[str, str]:
    return {
        "customer": failure.subscription.customer.external_id,
        "subscription": str(failure.subscription.pk),
        "metric": failure.meter.metric.code,
        "period": failure.month,
        "code": failure.error.code,
        "message": failure.error.message,
    }
