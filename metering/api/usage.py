"""The API of usage: realtime, range, breakdown, series. Every number comes from `metering.queries.usage`."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.domain import Scope
from common.errors import InvalidInput
from common.moments import rfc3339
from common.numbers import exact_text
from metering import queries
from metering.api import serializers as shapes
from metering.api.base import FreeNamesView, Subject, get_subject
from metering.domain import Granularity, Mode, Span
from metering.queries.periods import usage_zone
from metering.queries.usage import Usage

MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])\Z", re.ASCII)
MAX_FILTER_VALUES = 1000
FILTER_PARAMETER = OpenApiParameter(
    "filter[<dimension>]", OpenApiTypes.STR, description="Only events with this value; repeat the key for OR."
)


def usage_json(subject: Subject, span: Span, usage: Usage) -> dict[str, Any]:
    return {
        "customer": subject.customer.external_id if subject.customer else None,
        "metric": subject.metric.code,
        "period": {"start": span.start, "end": span.end},
        **numbers_json(usage),
        "alert_flags": list_alert_flags(subject, span),
    }


def list_alert_flags(subject: Subject, span: Span) -> list[str]:
    """Return the codes of the thresholds that the customer crossed in periods within the span.

    Settings name who knows them, an app above this one.
    """
    if subject.customer is None:
        return []
    find_flags = import_string(settings.ALERT_FLAGS)
    flags: list[str] = find_flags(metric=subject.metric, customer_id=subject.customer.pk, span=span)
    return flags


def numbers_json(usage: Usage) -> dict[str, Any]:
    return {
        "value": exact_text(usage.value),
        "count": usage.count,
        "sum": _text(usage.sum),
        "min": _text(usage.min),
        "max": _text(usage.max),
        "unique": usage.unique,
        "last_value": _text(usage.last_value),
        "last_event_at": usage.last_event_at,
    }


def _text(value: Decimal | None) -> str | None:
    return None if value is None else exact_text(value)


class UsageView(FreeNamesView):
    """A read of one metric. `subject` and `span` are what the query names."""

    scopes = {"GET": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"GET"})
    free_name = re.compile(r"filter\[(.{1,128})\]\Z", re.DOTALL)

    subject: Subject
    now: datetime

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.now = timezone.now()
        if request.method in {"GET", "HEAD"} and request.method in self.allowed_methods:
            self.subject = get_subject(self.caller, metric=self.query["metric"], customer=self.query.get("customer"))
            self._check_names()

    def _check_names(self) -> None:
        """Refuse filters and groups by what the metric does not declare."""
        declared = {dimension["key"] for dimension in self.subject.metric.dimensions}
        for key, values in self.free.items():
            if key not in declared:
                message = "The metric does not declare this dimension."
                raise InvalidInput.of(f"filter[{key}]", message, "unknown_dimension")
            if len(values) > MAX_FILTER_VALUES or any("\x00" in (value or "") for value in values):
                raise InvalidInput.of(f"filter[{key}]", f"At most {MAX_FILTER_VALUES} values, without NUL.", "invalid")
        group_by = self.query.get("group_by", [])
        for key in group_by:
            if key not in declared | {"customer"}:
                raise InvalidInput.of("group_by", f"The metric does not declare {key[:100]!r}.", "unknown_dimension")
        if len(set(group_by)) < len(group_by):
            raise InvalidInput.of("group_by", "Each key stands once.", "repeated")

    def read_span(self) -> Span:
        """Return the range that `period` or `from` and `to` name; the current period without either."""
        start, end, period = self.query.get("from"), self.query.get("to"), self.query.get("period")
        if start is None and end is None:
            return self._read_period(period or "current")
        if period is not None:
            raise InvalidInput.of("period", "Give `period`, or `from` and `to`.", "invalid_range")
        if start is None or end is None:
            raise InvalidInput.of("from" if start is None else "to", "Give both `from` and `to`.", "invalid_range")
        if start >= end:
            raise InvalidInput.of("from", "`from` lies before `to`.", "invalid_range")
        return Span(start, end)

    def _read_period(self, period: str) -> Span:
        names: dict[str, Any] = {
            "metric": self.subject.metric,
            "organization": self.caller.organization,
            "customer": self.subject.customer,
        }
        if period == "current":
            return queries.current_period(**names, at=self.now)
        if period == "last":
            return queries.previous_period(**names, at=self.now)
        month = MONTH.match(period)
        if month is None or not 1970 < int(month[1]) < 9999:
            raise InvalidInput.of("period", "Use current, last or a month like 2026-11.", "invalid_period")
        return queries.period_of_month(**names, year=int(month[1]), month=int(month[2]))

    def read_selection(self) -> dict[str, Any]:
        as_of = self.query.get("as_of")
        if as_of is not None and as_of > self.now:
            raise InvalidInput.of("as_of", "What will be known is not known yet.", "in_future")
        return {
            "organization": self.caller.organization,
            "metric": self.subject.metric,
            "customer_id": self.subject.customer_id,
            "filters": self.free,
            "as_of": as_of,
        }


class RealtimeView(UsageView):
    queries = {"GET": shapes.RealtimeQuery}
    free_name = re.compile(r"(?!)")  # takes no filters: it is the whole of the current period

    @extend_schema(operation_id="get_realtime_usage", parameters=[shapes.RealtimeQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        span = self._read_period("current")
        usage = queries.get_usage(start=span.start, end=span.end, **self.read_selection())
        return Response(usage_json(self.subject, span, usage))


class RangeView(UsageView):
    queries = {"GET": shapes.RangeQuery}

    @extend_schema(
        operation_id="get_usage", parameters=[shapes.RangeQuery, FILTER_PARAMETER], responses=OpenApiTypes.OBJECT
    )
    def get(self, request: Request) -> Response:
        span = self.read_span()
        usage = queries.get_usage(start=span.start, end=span.end, **self.read_selection())
        return Response(usage_json(self.subject, span, usage))


class BreakdownView(UsageView):
    queries = {"GET": shapes.BreakdownQuery}

    @extend_schema(
        operation_id="get_usage_breakdown",
        parameters=[shapes.BreakdownQuery, FILTER_PARAMETER],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        span = self.read_span()
        rows = queries.list_breakdown(
            start=span.start, end=span.end, group_by=self.query["group_by"], **self.read_selection()
        )
        return Response(
            {
                "metric": self.subject.metric.code,
                "customer": self.subject.customer.external_id if self.subject.customer else None,
                "period": {"start": span.start, "end": span.end},
                "rows": [{"group": row.group, **numbers_json(row.usage)} for row in rows],
            }
        )


class SeriesView(UsageView):
    queries = {"GET": shapes.SeriesQuery}

    @extend_schema(
        operation_id="get_usage_series",
        parameters=[shapes.SeriesQuery, FILTER_PARAMETER],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        span = self.read_span()
        zone = usage_zone(organization=self.caller.organization, customer=self.subject.customer)
        series = queries.get_series(
            start=span.start,
            end=span.end,
            granularity=Granularity(self.query["granularity"]),
            zone=self.query.get("tz") or zone.key,
            mode=Mode(self.query["mode"]),
            group_by=self.query.get("group_by", []),
            now=self.now,
            **self.read_selection(),
        )
        return Response(series_json(series))


def series_json(series: queries.UsageSeries) -> dict[str, Any]:
    # All lines share one time axis, whose times are written as text once: a year of days for many customers is
    # mostly times.
    axis = series.lines[0].points if series.lines else []
    times = [rfc3339(point.start) for point in axis]
    return {
        "start": series.start,
        "end": series.end,
        "granularity": series.granularity,
        "tz": series.zone,
        "complete_through": series.complete_through,
        # Buckets that the range or the present cuts short, by their start.
        "partial": [time for time, point in zip(times, axis, strict=True) if point.is_partial],
        "series": [
            {
                "group": line.group,
                "points": [[time, exact_text(point.value)] for time, point in zip(times, line.points, strict=True)],
            }
            for line in series.lines
        ],
    }
