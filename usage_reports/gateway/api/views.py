"""`GET /admin/analytics/…` and `GET /admin/users/{id}/usage`: who asks about which requests, and the answer.

Keys need `usage:read`; one that is bound to a customer sees that customer alone. The shapes are in `docs/gateway.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from accounts.api.base import CallerView
from accounts.domain import Scope
from common.errors import PermissionRefused
from metering.api.base import get_named_customer, get_visible_customer
from metering.queries.reading import RangeNotKept
from usage_reports.gateway import files
from usage_reports.gateway.answers import list_json, summary_json, user_usage_json
from usage_reports.gateway.api import serializers as shapes
from usage_reports.gateway.domain import MOST_REQUESTS_FIRST, TIMES, Grouping, Sort
from usage_reports.gateway.engine import (
    CODES,
    Selection,
    begin_where_kept,
    explain,
    get_summary,
    list_rows,
    require_raw,
)
from usage_reports.gateway.ranges import read_span
from usage_reports.gateway.user_usage import get_user_usage, route_names

JSON = "application/json"

_encoder = msgspec.json.Encoder(decimal_format="number")


def require_metrics(metric_codes: frozenset[str]) -> None:
    """Raise `PermissionRefused` for a key that is bound to some metrics, and not to all of the gateway's."""
    if metric_codes and not metric_codes >= CODES:
        raise PermissionRefused("This key is bound to other metrics than an API gateway's.", code="bound_key")


class AnalyticsView(CallerView):
    """A read of recorded requests; `selection` is what the query names."""

    scopes = {"GET": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"GET"})
    http_method_names = ["get", "head"]

    # Whether a range without a beginning has months, not days.
    is_in_months: ClassVar[bool] = False
    # The parameter that says where the range begins.
    range_field: ClassVar[str] = "from"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method in self.allowed_methods:
            require_metrics(self.caller.metric_codes)

    def read_selection(self, *, is_raw: bool = False) -> Selection:
        """Return what is asked about. Raises `NotFound` for a user who is not there, or not the key's."""
        now, organization = timezone.now(), self.caller.organization
        zone = ZoneInfo(organization.zone)
        customer = get_visible_customer(self.caller, self.query.get("user"))
        start, end = self.query.get("from"), self.query.get("to")
        selection = Selection(
            organization=organization,
            span=read_span(start, end, zone=zone, now=now, is_in_months=self.is_in_months),
            zone=zone,
            now=now,
            customer_id=customer.pk if customer else None,
            route=self.query.get("route"),
            status=self.query.get("status", ""),
        )
        return begin_where_kept(selection, is_raw=is_raw) if start is None else selection

    def handle_exception(self, exc: Exception) -> Any:
        """Name the parameter, and the first day that can be asked for, where the metrics' range is not kept."""
        if isinstance(exc, RangeNotKept):
            exc = explain(exc, self.caller.organization, field=self.range_field)
        return super().handle_exception(exc)


class SummaryView(AnalyticsView):
    queries = {"GET": shapes.SelectionQuery}

    @extend_schema(
        operation_id="get_request_summary", parameters=[shapes.SelectionQuery], responses=OpenApiTypes.OBJECT
    )
    def get(self, request: Request) -> HttpResponse:
        selection = self.read_selection()
        return respond(summary_json(selection, get_summary(selection)))


# --- lists ----------------------------------------------------------------------------------------------------


class ListView(AnalyticsView):
    """Rows of `kind`, as `type` tells them."""

    kind: ClassVar[str]

    def list(self, groups: Sequence[Grouping], *, limit: int | None = None, is_dense: bool = False) -> HttpResponse:
        is_of_time = any(group in TIMES for group in groups)
        sort = Sort.parse(self.query["sort"]) if "sort" in self.query else None if is_of_time else MOST_REQUESTS_FIRST
        limit = limit or int(self.query["limit"])
        selection = self.read_selection(is_raw=Grouping.PATH in groups)
        found = list_rows(selection, groups, sort=sort, limit=limit, is_dense=is_dense)
        routes = route_names(self.caller.organization) if Grouping.ROUTE in groups else {}
        return respond(
            list_json(self.kind, selection, groups, found, routes=routes, sort=sort, limit=limit, is_dense=is_dense)
        )


class UsersView(ListView):
    kind = "user_usage"
    queries = {"GET": shapes.ListQuery}

    @extend_schema(operation_id="list_request_users", parameters=[shapes.ListQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        return self.list([Grouping.USER])


class RoutesView(ListView):
    kind = "route_usage"
    queries = {"GET": shapes.ListQuery}

    @extend_schema(operation_id="list_request_routes", parameters=[shapes.ListQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        return self.list([Grouping.ROUTE])


class SeriesView(ListView):
    kind = "request_series"
    queries = {"GET": shapes.SeriesQuery}

    @extend_schema(operation_id="get_request_series", parameters=[shapes.SeriesQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        return self.list([Grouping(self.query["group_by"])], is_dense=True)


class CalendarView(ListView):
    """Rows of one piece of the calendar, and of a group where one is asked for."""

    time: ClassVar[Grouping]
    queries = {"GET": shapes.CalendarQuery}

    def list_calendar(self) -> HttpResponse:
        groups = [Grouping(self.query["group_by"])] if "group_by" in self.query else []
        return self.list([self.time, *groups])


class DailyView(CalendarView):
    kind, time = "daily_usage", Grouping.DAY

    @extend_schema(operation_id="list_request_days", parameters=[shapes.CalendarQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        return self.list_calendar()


class MonthlyView(CalendarView):
    kind, time = "monthly_usage", Grouping.MONTH
    is_in_months = True

    @extend_schema(operation_id="list_request_months", parameters=[shapes.CalendarQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        return self.list_calendar()


class AggregateView(ListView):
    kind = "request_aggregate"
    queries = {"GET": shapes.AggregateQuery}

    @extend_schema(operation_id="aggregate_requests", parameters=[shapes.AggregateQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        group = Grouping(self.query["group_by"])
        usual = shapes.TIME_LIMIT if group in TIMES else shapes.LIST_LIMIT
        return self.list([group], limit=self.query.get("limit", usual))


# --- one by one -----------------------------------------------------------------------------------------------


class ExportView(AnalyticsView):
    queries = {"GET": shapes.ExportQuery}

    @extend_schema(
        operation_id="export_requests",
        parameters=[shapes.ExportQuery],
        responses={(200, content_type): OpenApiTypes.BINARY for content_type in files.CONTENT_TYPES.values()},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        selection = self.read_selection(is_raw=True)
        require_raw(selection)
        return files.answer_with_requests(selection, self.query["format"])


class UserUsageView(AnalyticsView):
    queries = {"GET": shapes.PeriodQuery}
    range_field = "period"

    @extend_schema(operation_id="get_user_usage", parameters=[shapes.PeriodQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, user_id: str) -> HttpResponse:
        customer = get_named_customer(self.caller, user_id)
        period = self.query["period"]
        usage = get_user_usage(
            organization=self.caller.organization,
            customer=customer,
            month=None if isinstance(period, str) else period,
            is_last=period == "last",
            now=timezone.now(),
        )
        return respond(user_usage_json(usage))


def respond(body: dict[str, Any]) -> HttpResponse:
    """Answer JSON in which exact quantities are numbers."""
    return HttpResponse(_encoder.encode(body), content_type=JSON)
