"""The raw events behind a usage number, for whoever wants to check it: folding them gives the number.

Owns no number: what an event adds to a metric is said where the metric is read, by `metering.sql.usage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from accounts.models import Organization
from metering.domain import Cutoff, Span
from metering.models import Metric, Operation
from metering.queries.reading import Reading
from metering.sql import counted_events

# Of a page; each costs a pass over the customer's events of the range.
MAX_COUNTED_EVENTS = 50_000


@dataclass(frozen=True, slots=True)
class CountedEvent:
    """One event as the metric counts it: its quantity or its member, and each dimension as grouping sees it.

    `dimensions` has all of the metric's: None where the event has none, `(other)` where the value is not listed.
    """

    offset: int
    idempotency_key: str
    occurred_at: datetime
    quantity: Decimal | None
    member: str | None
    # `add` or `remove`; it matters where members count.
    operation: str
    dimensions: dict[str, str | None]


def iterate_counted_events(
    *,
    organization: Organization,
    metric: Metric,
    customer_id: int,
    start: datetime,
    end: datetime,
    as_of: datetime | Cutoff | None,
    after: int | None = None,
    limit: int,
) -> list[CountedEvent]:
    """Return the next events that the metric counts of the customer in `[start, end)`, in the order of their offsets.

    `after` is the offset where the page before ended; a page shorter than `limit` is the last. Without `as_of` it is
    what counts now, pending events included, and may differ from page to page: by a cut-off it does not. At equal
    times the greater offset is the later event. Raises `RangeNotKept` where raw events of the range are gone.
    """
    assert 0 < limit <= MAX_COUNTED_EVENTS
    reading = Reading.prepare(organization, metric, customer_id, None, (), as_of)
    span = Span(start, end)
    reading.require_raw([span])
    rows = counted_events.list_counted(reading.selection, span=span, after=-1 if after is None else after, limit=limit)
    reading.confirm([span])
    keys = [entry["key"] for entry in metric.dimensions]
    return [
        CountedEvent(
            row.offset,
            row.idempotency_key,
            row.occurred_at,
            row.quantity,
            row.member,
            Operation(row.operation).name.lower(),
            dict(zip(keys, row.dimensions or (), strict=True)),
        )
        for row in rows
    ]
