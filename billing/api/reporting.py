"""The API of reporting usage to Stripe: have it done, see how far each report has come, and say who is who there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import reporting_serializers as shapes
from billing.queries.billing_usage import CURRENT, LAST
from billing.queries.reporting import (
    count_states,
    find_stripe_customer,
    find_stripe_meter,
    get_report,
    list_drifts,
    list_reports,
    list_stripe_customers,
    list_stripe_meters,
)
from billing.services.reporting import (
    PLAN_AT_ONCE,
    PlanRun,
    SendRun,
    confirm_report,
    plan_reports,
    report_usage,
    retry_report,
)
from billing.services.stripe_account import open_sink
from billing.services.stripe_names import forget_customer, forget_meter, name_customer, name_meter
from common.api import ListQuery, take_page
from common.errors import InvalidInput, NotFound
from metering.api.base import get_named_customer, get_visible_customer, get_visible_metric


class ReportUsageView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": shapes.ReportListQuery, "POST": shapes.ReportQuery}

    @extend_schema(
        operation_id="list_usage_reports",
        parameters=[shapes.ReportListQuery],
        responses=page_of(shapes.UsageReportRead),
    )
    def get(self, request: Request) -> Response:
        rows = list_reports(organization=self.caller.organization)
        customer = get_visible_customer(self.caller, self.query.pop("customer", None))
        if customer is not None:
            rows = rows.filter(subscription__customer=customer)
        month = self._month(self.query.pop("period", None))
        if month is not None:
            rows = rows.filter(month=month)
        if state := self.query.pop("state", None):
            rows = rows.filter(state=state)
        page = take_page(rows, **self.query)
        return Response({"data": [shapes.report_json(row) for row in page.rows], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="report_usage",
        parameters=[shapes.ReportQuery],
        request=shapes.ReportWrite,
        responses=shapes.UsageReportRunRead,
        description="Reports to Stripe what is lacking there. Running it again reports nothing twice.",
    )
    def post(self, request: Request) -> Response:
        asked = self.query | agreeing(self.query, self.read_body(shapes.ReportWrite))
        month = self._month(asked.get("period"))
        months = None if month is None else [month]
        organization = self.caller.organization
        if asked.get("dry_run"):
            now = timezone.now()
            until = datetime.now(UTC) + PLAN_AT_ONCE
            plan = plan_reports(organization=organization, months=months, now=now, is_dry_run=True, until=until)
            return self._answer(month, plan, SendRun(), is_dry_run=True, is_complete=plan.resume_from is None)
        sink = open_sink(organization=organization)
        run = report_usage(organization=organization, months=months, sink=sink)
        return self._answer(month, run.plan, run.sent, is_dry_run=False, is_complete=run.is_complete)

    def _month(self, period: str | None) -> str | None:
        """Return a named month, in the organization's zone where it is named by the time of day."""
        if period not in (CURRENT, LAST):
            return period
        today = timezone.now().astimezone(ZoneInfo(self.caller.organization.zone)).date()
        last_day_before = today.replace(day=1) - timedelta(days=1)
        return f"{today if period == CURRENT else last_day_before:%Y-%m}"

    def _answer(
        self, month: str | None, plan: PlanRun, sent: SendRun, *, is_dry_run: bool, is_complete: bool
    ) -> Response:
        months = None if month is None else [month]
        return Response(
            {
                "period": month,
                "dry_run": is_dry_run,
                "is_complete": is_complete,
                "planned": len(plan.planned),
                "answers": dict(sent.answers),
                "stopped_by": sent.stopped_by,
                "states": count_states(organization=self.caller.organization, months=months),
                "failures": [shapes.failure_json(failure) for failure in plan.failures],
                "reports": [shapes.planned_json(planned) for planned in plan.planned[: shapes.MAX_SHOWN]],
            }
        )


class UsageReportView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}

    @extend_schema(operation_id="get_usage_report", responses=shapes.UsageReportRead)
    def get(self, request: Request, report_id: int) -> Response:
        return Response(shapes.report_json(get_report(organization=self.caller.organization, report_id=report_id)))


class RetryReportView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="retry_usage_report",
        request=None,
        responses={201: shapes.UsageReportRead},
        description="Says a report again that is rejected, or unknown for two days, under the names of today.",
    )
    def post(self, request: Request, report_id: int) -> Response:
        report = get_report(organization=self.caller.organization, report_id=report_id)
        again = retry_report(report=report, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.report_json(again), status=HTTP_201_CREATED)


class ConfirmReportView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="confirm_usage_report",
        request=None,
        responses=shapes.UsageReportRead,
        description="Notes that a report arrived that has been unknown for two days, which only people can tell.",
    )
    def post(self, request: Request, report_id: int) -> Response:
        report = get_report(organization=self.caller.organization, report_id=report_id)
        confirmed = confirm_report(report=report, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.report_json(confirmed))


# --- who is who at Stripe -------------------------------------------------------------------------------------


class StripeCustomerListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": ListQuery}

    @extend_schema(
        operation_id="list_stripe_customers", parameters=[ListQuery], responses=page_of(shapes.StripeCustomerRead)
    )
    def get(self, request: Request) -> Response:
        rows = list_stripe_customers(organization=self.caller.organization)
        return take_page(rows, **self.query).response(shapes.StripeCustomerRead)


class StripeCustomerView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PUT": Scope.BILLING_WRITE, "DELETE": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_stripe_customer", responses=shapes.StripeCustomerRead)
    def get(self, request: Request, external_id: str) -> Response:
        found = find_stripe_customer(
            organization=self.caller.organization, customer=get_named_customer(self.caller, external_id)
        )
        if found is None:
            raise NotFound("The customer has no name at Stripe.")
        return Response(shapes.StripeCustomerRead(found).data)

    @extend_schema(
        operation_id="set_stripe_customer", request=shapes.StripeCustomerWrite, responses=shapes.StripeCustomerRead
    )
    def put(self, request: Request, external_id: str) -> Response:
        named = name_customer(
            organization=self.caller.organization,
            customer=get_named_customer(self.caller, external_id),
            actor=self.caller.actor,
            now=timezone.now(),
            **self.read_body(shapes.StripeCustomerWrite),
        )
        return Response(shapes.StripeCustomerRead(named).data)

    @extend_schema(operation_id="forget_stripe_customer", responses={204: None})
    def delete(self, request: Request, external_id: str) -> Response:
        forget_customer(
            organization=self.caller.organization,
            customer=get_named_customer(self.caller, external_id),
            actor=self.caller.actor,
        )
        return Response(status=204)


class StripeMeterListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_stripe_meters", parameters=[ListQuery], responses=page_of(shapes.StripeMeterRead))
    def get(self, request: Request) -> Response:
        rows = list_stripe_meters(organization=self.caller.organization)
        return take_page(rows, **self.query).response(shapes.StripeMeterRead)


class StripeMeterView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PUT": Scope.BILLING_WRITE, "DELETE": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_stripe_meter", responses=shapes.StripeMeterRead)
    def get(self, request: Request, code: str) -> Response:
        metric = get_visible_metric(self.caller, code)
        found = find_stripe_meter(organization=self.caller.organization, metric=metric)
        if found is None:
            raise NotFound("The metric is not reported to Stripe.")
        return Response(shapes.StripeMeterRead(found).data)

    @extend_schema(operation_id="set_stripe_meter", request=shapes.StripeMeterWrite, responses=shapes.StripeMeterRead)
    def put(self, request: Request, code: str) -> Response:
        named = name_meter(
            organization=self.caller.organization,
            metric=get_visible_metric(self.caller, code),
            actor=self.caller.actor,
            now=timezone.now(),
            **self.read_body(shapes.StripeMeterWrite),
        )
        return Response(shapes.StripeMeterRead(named).data)

    @extend_schema(operation_id="forget_stripe_meter", responses={204: None})
    def delete(self, request: Request, code: str) -> Response:
        metric = get_visible_metric(self.caller, code)
        forget_meter(organization=self.caller.organization, metric=metric, actor=self.caller.actor)
        return Response(status=204)


class StripeDriftListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": ListQuery}

    @extend_schema(
        operation_id="list_stripe_drifts",
        parameters=[ListQuery],
        responses=page_of(shapes.StripeDriftRead),
        description="Days of which Stripe counts something else than was used, as of the last comparison.",
    )
    def get(self, request: Request) -> Response:
        rows = list_drifts(organization=self.caller.organization)
        return take_page(rows, **self.query).response(shapes.StripeDriftRead)


def agreeing(query: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return the body. Raises `InvalidInput` where the query says something else."""
    for name in query.keys() & body.keys():
        if query[name] != body[name]:
            raise InvalidInput.of(name, "The query and the body say different things.", "ambiguous")
    return body
