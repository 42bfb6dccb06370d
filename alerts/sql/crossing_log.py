"""The crossing log as the live stream reads it: where it ends, and what came after an offset. Reads asynchronously."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

# One row per organization that ever had a threshold evaluated. Uses the primary key of alerts_alertlog.
_ENDS = """
SELECT organization_id, last_offset
FROM alerts_alertlog
WHERE organization_id = ANY(%(organizations)s)
"""

# One row per crossing of the range, oldest first, at most `limit`; a list that is null lets everything through.
# Uses index: crossing_offset_once.
_CROSSINGS = """
SELECT crossing."offset", crossing.customer_id, customer.external_id AS customer, metric.code AS metric,
       crossing.threshold_code, crossing.threshold_value, crossing.value_at_cross,
       crossing.period_start, crossing.period_end, crossing.triggered_at
FROM alerts_crossing AS crossing
JOIN metering_metric AS metric ON metric.id = crossing.metric_id
LEFT JOIN accounts_customer AS customer ON customer.id = crossing.customer_id
WHERE crossing.organization_id = %(organization)s
  AND crossing."offset" > %(after)s
  AND crossing."offset" <= %(until)s
  AND (%(customer_id)s::bigint IS NULL OR crossing.customer_id = %(customer_id)s)
  AND (%(metric_codes)s::text[] IS NULL OR metric.code = ANY(%(metric_codes)s))
  AND (%(wanted_customers)s::text[] IS NULL OR customer.external_id = ANY(%(wanted_customers)s))
  AND (%(wanted_metrics)s::text[] IS NULL OR metric.code = ANY(%(wanted_metrics)s))
ORDER BY crossing."offset"
LIMIT %(limit)s
"""


class LoggedCrossing(NamedTuple):
    """What an alert tells, and by whom it may be seen. No customer: the metric as a whole."""

    offset: int
    customer_id: int | None
    customer: str | None
    metric: str
    threshold_code: str
    threshold_value: Decimal
    value_at_cross: Decimal
    period_start: datetime
    period_end: datetime
    triggered_at: datetime


class CrossingFilter(NamedTuple):
    """Which crossings; empty sets: all. `customer_id` and `metric_codes` bind a key, the rest is what it asked for."""

    customer_id: int | None = None
    metric_codes: frozenset[str] = frozenset()
    wanted_customers: frozenset[str] = frozenset()
    wanted_metrics: frozenset[str] = frozenset()

    def matches(self, crossing: LoggedCrossing) -> bool:
        """Tell what the statement's conditions tell."""
        return (
            (self.customer_id is None or crossing.customer_id == self.customer_id)
            and (not self.metric_codes or crossing.metric in self.metric_codes)
            and (not self.wanted_customers or crossing.customer in self.wanted_customers)
            and (not self.wanted_metrics or crossing.metric in self.wanted_metrics)
        )


EVERYTHING = CrossingFilter()


async def find_ends(connection: AsyncConnection[Any], *, organization_ids: Collection[int]) -> dict[int, int]:
    """Return the last offset of each organization's log, 0 for an empty one. One query."""
    cursor = await connection.execute(_ENDS, {"organizations": list(organization_ids)})
    return dict.fromkeys(organization_ids, 0) | {organization: end for organization, end in await cursor.fetchall()}


async def list_logged_crossings(
    connection: AsyncConnection[Any],
    *,
    organization_id: int,
    after: int,
    until: int,
    limit: int,
    wanted: CrossingFilter = EVERYTHING,
) -> list[LoggedCrossing]:
    async with connection.cursor(row_factory=class_row(LoggedCrossing)) as cursor:
        await cursor.execute(
            _CROSSINGS,
            {
                "organization": organization_id,
                "after": after,
                "until": until,
                "limit": limit,
                "customer_id": wanted.customer_id,
                "metric_codes": list(wanted.metric_codes) or None,
                "wanted_customers": list(wanted.wanted_customers) or None,
                "wanted_metrics": list(wanted.wanted_metrics) or None,
            },
        )
        return await cursor.fetchall()
