"""What one server reported, read from the one engine. Computes nothing: a bucket's value is its last reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from metering.catalogs.usage_client import REPORTED_VALUE
from metering.dialects.influx.models import Server
from metering.domain import DAY, Granularity, Mode, Span, ceil_time, floor_time, list_buckets
from metering.models import Metric
from metering.queries import list_breakdown
from metering.queries.reading import Reading
from metering.queries.usage import is_partial

# Usage comes once a day at the rarest: whatever a server still reports, it reported within this of its last report.
LATEST_WITHIN = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class LatestValue:
    series: str
    field: str
    value: Decimal
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Reported:
    """One bucket of a field's history; `value` is its last reading, None where nothing was reported."""

    start: datetime
    value: Decimal | None
    is_partial: bool


def find_metric(server: Server) -> Metric | None:
    """Return the metric that holds what the server reports; None while nobody has installed it."""
    return Metric.objects.for_organization(server.organization_id).filter(code=REPORTED_VALUE).first()


def list_latest_values(*, server: Server, metric: Metric) -> list[LatestValue]:
    """Return the latest value of each field of the server's last reports, by series and field."""
    if server.customer_id is None:
        return []
    rows = list_breakdown(
        organization=server.organization,
        metric=metric,
        # Whole days, which rollups answer alone.
        start=floor_time(server.last_seen_at - LATEST_WITHIN, DAY),
        end=ceil_time(server.last_seen_at + timedelta(microseconds=1), DAY),
        group_by=("series", "field"),
        customer_id=server.customer_id,
        filters=_filters(server),
    )
    values = [
        LatestValue(row.group["series"] or "", row.group["field"] or "", row.usage.value, row.usage.last_event_at)
        for row in rows
    ]
    return sorted(values, key=lambda value: (value.series, value.field))


def list_history(
    *,
    server: Server,
    metric: Metric,
    series: str,
    field: str,
    span: Span,
    granularity: Granularity,
    zone: ZoneInfo,
    now: datetime,
) -> list[Reported]:
    """Return one entry for each bucket of the span. Raises `RangeNotKept` as every read."""
    buckets = list(list_buckets(span, granularity, zone))
    filters = {**_filters(server), "series": (series,), "field": (field,)}
    reading = Reading.prepare(server.organization, metric, server.customer_id, filters, (), None)
    lines = list(reading.list_cells(buckets).values()) if server.customer_id is not None else []
    # One customer and no grouping: one line, or none where nothing was reported.
    values = [cell.last_value for cell in lines[0]] if lines else [None] * len(buckets)
    return [
        Reported(bucket.start, value, is_partial(bucket, span.start, span.end, now, Mode.INCREMENTAL))
        for bucket, value in zip(buckets, values, strict=True)
    ]


def _filters(server: Server) -> Mapping[str, tuple[str]]:
    return {"product": (server.product,), "cluster": (server.cluster_id,), "server": (server.server_id,)}
