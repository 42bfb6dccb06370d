"""What one user requested in a month, beside its quota.

Numbers are the engine's; the quota is another app's to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.models import Customer, Organization
from metering.dialects.gateway.queries.routes import list_routes
from metering.domain import Span, local_date, month_start
from metering.models import Metric, PeriodType
from metering.queries import usage_zone
from metering.queries.exports import export_snapshot
from usage_reports.gateway.domain import Grouping, percent_of
from usage_reports.gateway.engine import REQUESTS, UNITS, Selection, Summary, count_by, find_metrics, get_summary


@dataclass(frozen=True, slots=True)
class RouteCount:
    """`name` is None for a route that is not defined, or not any more; `route_id` for requests without one."""

    route_id: str | None
    name: str | None
    requests: int


@dataclass(frozen=True, slots=True)
class UserUsage:
    """`month` names the period by its beginning. Without a quota, or a limit of it, both its numbers are None."""

    month: str
    summary: Summary
    quota_limit: Decimal | None
    quota_used_percent: Decimal | None
    by_route: list[RouteCount]


def get_user_usage(
    *,
    organization: Organization,
    customer: Customer,
    month: tuple[int, int] | None,
    now: datetime,
    is_last: bool = False,
) -> UserUsage:
    """Return the usage of a month, of the current one or (`is_last`) of the one before it."""
    zone = usage_zone(organization=organization, customer=customer)
    metrics = find_metrics(organization)
    cycle_day = _cycle_day(metrics.get(REQUESTS), customer)
    year, number = month or _month_at(now, cycle_day, zone)
    if is_last:
        year, number = (year, number - 1) if number > 1 else (year - 1, 12)
    span = Span(month_start(year, number, cycle_day, zone), month_start(year, number + 1, cycle_day, zone))
    selection = Selection(organization, span, zone, now, customer_id=customer.pk)
    with export_snapshot():
        summary = get_summary(selection)
        counts = count_by(selection, Grouping.ROUTE)
    limit, used = _find_quota(metrics, customer, summary, now)
    names = route_names(organization)
    return UserUsage(
        month=f"{year:04}-{number:02}",
        summary=summary,
        quota_limit=limit,
        quota_used_percent=percent_of(used, limit),
        by_route=[RouteCount(code, names.get(code), count) for code, count in counts.items()],
    )


def route_names(organization: Organization) -> dict[str | None, str]:
    """Return the names of the organization's routes by their codes. One query."""
    return dict(list_routes(organization=organization).values_list("code", "name"))


def _cycle_day(metric: Metric | None, customer: Customer) -> int:
    """Return the day with which the user's month begins, as quotas and invoices count it."""
    if metric is None or metric.period_type != PeriodType.CALENDAR:
        return 1
    return customer.billing_cycle_day or metric.billing_cycle_day


def _month_at(now: datetime, cycle_day: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the year and month with which the running period began."""
    today = local_date(now, zone)
    if now >= month_start(today.year, today.month, cycle_day, zone):
        return today.year, today.month
    return (today.year, today.month - 1) if today.month > 1 else (today.year - 1, 12)


def _find_quota(
    metrics: dict[str, Metric], customer: Customer, summary: Summary, now: datetime
) -> tuple[Decimal | None, Decimal]:
    """Return the limit that applies to the user now, on requests or else on units, and how much of it is used.

    `settings.QUOTA_LIMIT` names who knows it, an app above this one.
    """
    find_limit = import_string(settings.QUOTA_LIMIT)
    for code, used in ((REQUESTS, Decimal(summary.totals.requests)), (UNITS, summary.totals.units)):
        limit: Decimal | None = (
            find_limit(metric=metrics[code], customer=customer, now=now) if code in metrics else None
        )
        if limit is not None:
            return limit, used
    return None, Decimal(0)
