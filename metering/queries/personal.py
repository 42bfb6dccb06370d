"""Everything that is held on one customer, piece by piece: for whoever is obliged to hand it out.

Raw events come as the events list has them, totals from `queries.usage`; of every other table the rows that belong to
the customer or mention them, and what apps keep of them besides (`metering.traces`). Secrets are not among the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

from django.db import models

from accounts.models import Customer, Organization
from metering.domain import DAY, HOUR, Granularity, ceil_time, floor_time
from metering.models import Metric
from metering.queries.events import EventPosition, EventRow, list_events
from metering.queries.mentions import list_rows_of
from metering.queries.periods import usage_zone
from metering.queries.reading import RangeNotKept
from metering.queries.usage import get_series
from metering.sql.customer_traces import find_earliest_usage
from metering.sql.usage import find_horizon
from metering.traces import list_traces

PAGE_EVENTS = 1_000


def iterate_events(*, organization: Organization, customer: Customer) -> Iterator[EventRow]:
    """Yield the customer's raw events, the newest first."""
    before: EventPosition | None = None
    while rows := list_events(organization=organization, customer_id=customer.pk, before=before, limit=PAGE_EVENTS):
        yield from rows
        before = EventPosition(rows[-1].timestamp, rows[-1].offset)


def iterate_month_totals(*, organization: Organization, customer: Customer, now: datetime) -> Iterator[dict[str, Any]]:
    """Yield metric, unit, month and value of every calendar month in which the customer used something."""
    earliest = find_earliest_usage(organization_id=organization.pk, customer_id=customer.pk)
    if earliest is None:
        return
    zones = [str(usage_zone(organization=organization, customer=customer)), "UTC"]
    for metric in Metric.objects.for_organization(organization).order_by("code"):
        kept = find_horizon(organization_id=organization.pk, event_type=metric.event_type)
        start = floor_time(earliest, DAY)
        if kept and kept.rollups_from:
            start = max(start, kept.rollups_from)
        for point_start, value in _list_months(organization, metric, customer, start, now, zones):
            if value:
                yield {"metric": metric.code, "unit": metric.unit, "month": f"{point_start:%Y-%m}", "value": value}


def iterate_rows(*, organization: Organization, customer: Customer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every other row that belongs to the customer or mentions them, with the name of its table."""
    known: set[tuple[str, Any]] = set()
    sources = [list_rows_of, *(traces.iterate_rows for traces in list_traces())]
    for row in chain.from_iterable(source(organization=organization, customer=customer) for source in sources):
        name = row._meta.label, row.pk
        if name not in known:
            known.add(name)
            yield row._meta.label, _columns(row)


def _list_months(
    organization: Organization, metric: Metric, customer: Customer, start: datetime, now: datetime, zones: list[str]
) -> Iterator[tuple[datetime, Any]]:
    """Yield the start and value of each month, in the first of the zones in which they can still be told apart."""
    for zone in zones:
        try:
            series = get_series(
                organization=organization,
                metric=metric,
                start=start,
                # Whole hours: what lies between is an event of the future or none.
                end=ceil_time(max(now, start) + HOUR, HOUR),
                granularity=Granularity.MONTH,
                zone=zone,
                now=now,
                customer_id=customer.pk,
            )
        except RangeNotKept:
            continue
        for line in series.lines:
            for point in line.points:
                yield point.start.astimezone(ZoneInfo(zone)), point.value
        return


def _columns(row: models.Model) -> dict[str, Any]:
    """Return the row's columns as JSON can hold them; bytes are secrets or hashes."""
    return {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if not isinstance(field, models.BinaryField)
    }
