"""`/v1/billing/problems`: the billing periods that cannot be invoiced, and waiving one of them."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.models import BillingPeriod, PeriodState
from billing.queries.invoice_runs import list_problems
from billing.services.periods import waive_period
from billing.services.reasons import MAX_REASON_CHARACTERS
from common.api import ListQuery, StrictSerializer, Text, take_page


class BillingPeriodRead(serializers.Serializer):
    id = serializers.CharField()
    subscription = serializers.CharField()
    customer = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    state = serializers.ChoiceField(choices=PeriodState.choices)
    is_waived = serializers.BooleanField(help_text="Nothing of it is charged or adjusted any more.")
    problem = serializers.CharField(help_text="Why it, or an adjustment of it, could not be invoiced the last time.")


class BillingPeriodWaiveWrite(StrictSerializer):
    reason = Text(max_length=MAX_REASON_CHARACTERS)


class BillingProblemListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": ListQuery}

    @extend_schema(
        operation_id="list_billing_problems",
        description="The billing periods that could not be invoiced the last time; the next run tries again.",
        parameters=[ListQuery],
        responses=page_of(BillingPeriodRead),
    )
    def get(self, request: Request) -> Response:
        page = take_page(list_problems(organization=self.caller.organization), **self.query)
        return Response({"data": [_json(row) for row in page.rows], "next_cursor": page.next_cursor})


class WaivePeriodView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="waive_billing_period",
        description="Charges nothing of a period that cannot be invoiced, for good; those after it are then invoiced.",
        request=BillingPeriodWaiveWrite,
        responses=BillingPeriodRead,
    )
    def post(self, request: Request, period_id: int) -> Response:
        body = self.read_body(BillingPeriodWaiveWrite)
        waived = waive_period(
            organization=self.caller.organization,
            period_id=period_id,
            reason=body["reason"],
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(_json(waived))


def _json(period: BillingPeriod) -> dict[str, Any]:
    return {
        "id": str(period.pk),
        "subscription": str(period.subscription_id),
        "customer": period.subscription.customer.external_id,
        "start": period.starts_at,
        "end": period.ends_at,
        "state": period.state,
        "is_waived": period.is_waived,
        "problem": period.problem,
    }
