"""The API of scheduled reports and their runs."""

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from common.api import ListQuery, take_page
from metering.api.base import get_visible_customer, get_visible_metric
from usage_reports import queries
from usage_reports.api import serializers as shapes
from usage_reports.models import Report
from usage_reports.services.reports import ReportDefinition, create_report, delete_report, update_report
from usage_reports.services.runs import request_run


class ReportListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": shapes.ReportListQuery}

    @extend_schema(
        operation_id="list_reports", parameters=[shapes.ReportListQuery], responses=page_of(shapes.ReportRead)
    )
    def get(self, request: Request) -> Response:
        reports = queries.list_reports(organization=self.caller.organization)
        metric = self.query.pop("metric", None)
        if metric is not None:
            reports = reports.filter(metric=get_visible_metric(self.caller, metric))
        return take_page(reports, **self.query).response(shapes.ReportRead)

    @extend_schema(operation_id="create_report", request=shapes.ReportCreate, responses={201: shapes.ReportRead})
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.ReportCreate)
        report = create_report(
            organization=self.caller.organization,
            metric=get_visible_metric(self.caller, body["metric"]),
            definition=ReportDefinition(
                customer=get_visible_customer(self.caller, body.get("customer")),
                **shapes.ReportFields.changes_of(body),
            ),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.report_json(report), status=HTTP_201_CREATED)


class ReportView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_report", responses=shapes.ReportRead)
    def get(self, request: Request, report_id: int) -> Response:
        return Response(shapes.report_json(_report(self, report_id)))

    @extend_schema(operation_id="update_report", request=shapes.ReportFields, responses=shapes.ReportRead)
    def patch(self, request: Request, report_id: int) -> Response:
        changed = update_report(
            report=_report(self, report_id),
            changes=shapes.ReportFields.changes_of(self.read_body(shapes.ReportFields, is_partial=True)),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.report_json(changed))

    @extend_schema(operation_id="delete_report", responses={204: None})
    def delete(self, request: Request, report_id: int) -> Response:
        delete_report(report=_report(self, report_id), actor=self.caller.actor)
        return Response(status=HTTP_204_NO_CONTENT)


class SendReportView(CallerView):
    scopes = {"POST": Scope.METRICS_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="send_report", request=None, responses={202: shapes.ReportRunRead})
    def post(self, request: Request, report_id: int) -> Response:
        """Send the report now, whatever its schedule says; at most once a minute."""
        run = request_run(report=_report(self, report_id), actor=self.caller.actor, now=timezone.now())
        return Response(shapes.run_json(run), status=HTTP_202_ACCEPTED)


class ReportRunListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_report_runs", parameters=[ListQuery], responses=page_of(shapes.ReportRunRead))
    def get(self, request: Request, report_id: int) -> Response:
        """The sendings of a report, the newest first."""
        runs = queries.list_runs(report=_report(self, report_id))
        return take_page(runs, is_newest_first=True, **self.query).response(shapes.ReportRunRead)


def _report(view: CallerView, report_id: int) -> Report:
    return queries.get_report(organization=view.caller.organization, report_id=report_id)
