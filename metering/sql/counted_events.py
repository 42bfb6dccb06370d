"""The raw events behind one usage number of one customer, in the order in which they arrived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection
from psycopg.sql import SQL

from metering.domain import Span
from metering.sql.usage import Selection, known_events, read_names


class CountedRow(NamedTuple):
    """One row per event; `dimensions` are in the metric's order, null for a metric without any."""

    offset: int
    idempotency_key: str
    occurred_at: datetime
    quantity: Decimal | None
    member: str | None
    operation: int
    dimensions: Sequence[str | None] | None


# Uses event_by_customer_time, and sorts the customer's events of the range: OFFSET 0 keeps the planner from walking
# through everybody's events in the order of their offsets instead, until a page is full of this customer's.
_COUNTED = """
WITH {events}
SELECT event."offset", event.idempotency_key, event.occurred_at, event.quantity, event.member, event.operation,
       event.dimensions
FROM (SELECT * FROM fed_event OFFSET 0) AS event
WHERE event."offset" > %(after)s
ORDER BY event."offset"
LIMIT %(limit)s
"""


def list_counted(selection: Selection, *, span: Span, after: int, limit: int) -> list[CountedRow]:
    """Return the events that the selection counts in the span, after an offset. One statement."""
    statement = SQL(_COUNTED).format(events=known_events(selection))
    with connection.cursor() as cursor:
        cursor.execute(statement, {**read_names(selection, span), "after": after, "limit": limit})
        return [CountedRow(*row) for row in cursor.fetchall()]
