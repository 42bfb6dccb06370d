"""What is worth knowing of the recording of requests, from what is kept already: no log of its own.

The audit log tells who changed settings and routes, cleaned up or erased; the inbox which requests were refused and
kept, those whose expression failed among them; the metric `api_metering_errors` by the hour which failed of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Any

from django.db.models import Q

from accounts.models import AuditEntry, Organization
from common.errors import InvalidInput
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.queries.refusals import describe_refused
from metering.domain import DAY, HOUR, Granularity, ceil_time, floor_time
from metering.models import InboxEvent, Metric
from metering.queries import UsageSeries, get_series

ERRORS_METRIC = "api_metering_errors"
# Before that, errors are in the analytics.
ERRORS_KEPT = timedelta(days=7)
ACTIONS = ("gateway.", "gateway_settings.", "gateway_route.", "route.", "customer.erased", "inbox.")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing that happened. `level` is `info`, `warning` or `error`."""

    at: datetime
    level: str
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


def list_usage_log(*, organization: Organization, now: datetime, limit: int) -> list[LogEntry]:
    """Return the newest entries, newest first."""
    entries = [
        *_changes(organization, limit),
        *_refused(organization, limit),
        *_metering_errors(organization, now),
    ]
    return nlargest(limit, entries, key=lambda entry: entry.at)


def _changes(organization: Organization, limit: int) -> Iterator[LogEntry]:
    is_ours = Q()
    for action in ACTIONS:
        is_ours |= Q(action__startswith=action)
    for row in AuditEntry.objects.for_organization(organization).filter(is_ours).order_by("-pk")[:limit]:
        yield LogEntry(row.created_at, "info", row.action, f"{row.action}: {row.target} (by {row.actor})", row.details)


def _refused(organization: Organization, limit: int) -> Iterator[LogEntry]:
    rows = InboxEvent.objects.for_organization(organization).filter(event_type=EVENT_TYPE)
    for row in rows.order_by("-received_at", "-pk")[:limit]:
        details = {"idempotency_key": row.idempotency_key, "state": row.state, **describe_refused(row)}
        yield LogEntry(row.received_at, "warning", row.code, f"A request was refused: {row.message}", details)


def _metering_errors(organization: Organization, now: datetime) -> Iterator[LogEntry]:
    """Yield the errors of each route by the hour; by the day where there are too many kinds of them."""
    metric = Metric.objects.for_organization(organization).filter(code=ERRORS_METRIC).first()
    if metric is None:
        return
    for granularity in (Granularity.HOUR, Granularity.DAY):
        try:
            series = get_series(
                organization=organization,
                metric=metric,
                start=floor_time(now - ERRORS_KEPT, DAY),
                end=ceil_time(now, HOUR),
                granularity=granularity,
                zone="UTC",
                now=now,
                group_by=[dimension["key"] for dimension in metric.dimensions],
            )
        except InvalidInput:
            continue  # too many points
        yield from _entries_of(series, granularity)
        return


def _entries_of(series: UsageSeries, granularity: Granularity) -> Iterator[LogEntry]:
    for line in series.lines:
        route = line.group.get("route_id") or "(none)"
        for point in line.points:
            if point.value:
                yield LogEntry(
                    point.start,
                    "error",
                    line.group.get("metering_error") or "metering_error",
                    f"{point.value} requests of route {route} could not be metered within the {granularity}.",
                    {**line.group, "requests": int(point.value)},
                )
