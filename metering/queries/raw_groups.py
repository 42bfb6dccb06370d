"""Usage by a property that is no dimension, from raw events: exact for as long as they are kept.

Owns how far back and how long such a read may go; the statement is `metering.sql.raw_groups`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.db import OperationalError, transaction
from psycopg.errors import QueryCanceled

from accounts.models import Organization
from common.errors import InvalidInput
from metering.domain import Span
from metering.feeds import list_feed_ids
from metering.models import ADDITIVE, Aggregation, Metric
from metering.queries.reading import Filters, RangeNotKept
from metering.sql import raw_groups
from metering.sql.raw_groups import Histogram, Ranking
from metering.sql.raw_groups import Measure as FedMeasure
from metering.sql.usage import find_horizon

# About what a million events take; nobody waits for a page much longer, and a worker is held meanwhile.
TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric that counts or sums, over the events that pass the filters."""

    metric: Metric
    filters: Filters


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """One group: its value of the property (None: events without it), the measures, and the histogram."""

    name: str | None
    values: dict[str, Decimal]
    # Events by the value of the histogram's dimension.
    bins: dict[str, int]


@dataclass(frozen=True, slots=True)
class GroupList:
    """The groups that were asked for, and how many there are."""

    groups: list[GroupUsage]
    total: int


def list_raw_groups(
    *,
    organization: Organization,
    span: Span,
    property_name: str,
    measures: Mapping[str, Measure],
    histogram: tuple[Measure, str] | None,
    order_by: str,
    divided_by: str | None = None,
    is_descending: bool,
    limit: int,
    customer_id: int | None = None,
) -> GroupList:
    """Return the first groups in which the first of the measures counts something, in the order of one, or of a ratio.

    Equal groups are in the order of their names, whatever the direction; the nameless one is last. `histogram` is a
    measure and a dimension of its metric. Events of customers who were erased are in no group. Takes a query for the
    feeds of each measure, and one for all groups. Raises `RangeNotKept` where raw events of the range are gone, and
    `InvalidInput` (`range_too_long`) after the timeout.
    """
    assert all(Aggregation(measure.metric.aggregation) in ADDITIVE for measure in measures.values())
    fed = {name: _find_feeds(measure) for name, measure in measures.items()}
    try:
        with transaction.atomic():
            rows = raw_groups.list_groups(
                organization_id=organization.pk,
                span=span,
                property_name=property_name,
                measures=fed,
                histogram=None if histogram is None else Histogram(_find_feeds(histogram[0]), histogram[1]),
                customer_id=customer_id,
                ranking=Ranking(order_by, divided_by, is_descending),
                limit=limit,
                timeout_ms=TIMEOUT_MS,
            )
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise _too_long() from None
        raise
    # Afterwards: a horizon moves before anything is deleted.
    _require_kept(organization, next(iter(measures.values())).metric, span)
    groups = [
        GroupUsage(
            row.name,
            dict(zip(fed, row.values, strict=True)),
            dict(zip(row.bins or (), row.bin_counts or (), strict=True)),
        )
        for row in rows
    ]
    return GroupList(groups, rows[0].total_count if rows else 0)


def _find_feeds(measure: Measure) -> FedMeasure:
    return FedMeasure(measure.metric, list_feed_ids(measure.metric), measure.filters)


def _require_kept(organization: Organization, metric: Metric, span: Span) -> None:
    horizon = find_horizon(organization_id=organization.pk, event_type=metric.event_type)
    if horizon is not None and horizon.raw_from is not None and span.start < horizon.raw_from:
        raise RangeNotKept(f"Raw events before {horizon.raw_from.isoformat()} are no longer kept.")


def _too_long() -> InvalidInput:
    message = f"Reading single events took longer than {TIMEOUT_MS // 1000} s; shorten the range."
    return InvalidInput.of("from", message, "range_too_long")
