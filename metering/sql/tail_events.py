"""The newest events of one organization in the order of their commits, for the live tail. Reads asynchronously."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

from metering.domain import OFFSET_BITS

# One row: the transactions that this statement's snapshot sees as ended or not, and the batches after the floor,
# oldest first. Everything comes from one snapshot. Uses the primary key of metering_ingestbatch.
_LOOK = """
SELECT pg_snapshot_xmin(snapshot)::text::bigint AS oldest_open,
       pg_snapshot_xmax(snapshot)::text::bigint AS next_transaction,
       ARRAY(
           SELECT id
           FROM metering_ingestbatch
           WHERE organization_id = %(organization)s
             AND id > %(floor)s
           ORDER BY id
       ) AS batch_ids,
       ARRAY(
           SELECT event_count
           FROM metering_ingestbatch
           WHERE organization_id = %(organization)s
             AND id > %(floor)s
           ORDER BY id
       ) AS event_counts
FROM pg_current_snapshot() AS snapshot
"""

# One row, null for an organization without batches. Uses the primary key of metering_ingestbatch, backwards.
_LATEST_BATCH = """
SELECT max(id)
FROM metering_ingestbatch
WHERE organization_id = %(organization)s
"""

# One row per event of these batches, newest first, at most `limit`. Uses index: event_by_offset.
_EVENTS_OF_BATCHES = """
SELECT event."offset", event.idempotency_key, event.customer_id, customer.external_id AS customer, feed.event_type,
       event.value, event.member, event.operation, event.occurred_at, event.received_at, event.properties,
       ARRAY(SELECT code FROM metering_metric WHERE id = ANY(feed.metric_ids) ORDER BY code) AS metric_codes
FROM unnest(%(batches)s::bigint[]) AS batch (id)
JOIN metering_event AS event
  ON event.organization_id = %(organization)s
 AND event."offset" >= batch.id << %(bits)s
 AND event."offset" < (batch.id + 1) << %(bits)s
JOIN metering_feed AS feed ON feed.id = event.feed_id
JOIN accounts_customer AS customer ON customer.id = event.customer_id
ORDER BY event."offset" DESC
LIMIT %(limit)s
"""

# One row per event after an offset, oldest first, at most `limit`. Uses index: event_by_offset.
_EVENTS_AFTER = """
SELECT event."offset", event.idempotency_key, event.customer_id, customer.external_id AS customer, feed.event_type,
       event.value, event.member, event.operation, event.occurred_at, event.received_at, event.properties,
       ARRAY(SELECT code FROM metering_metric WHERE id = ANY(feed.metric_ids) ORDER BY code) AS metric_codes
FROM metering_event AS event
JOIN metering_feed AS feed ON feed.id = event.feed_id
JOIN accounts_customer AS customer ON customer.id = event.customer_id
WHERE event.organization_id = %(organization)s
  AND event."offset" > %(offset)s
ORDER BY event."offset"
LIMIT %(limit)s
"""


class Look(NamedTuple):
    """What one look at the batches saw. `oldest_open`: every transaction with a smaller id has ended."""

    oldest_open: int
    next_transaction: int
    batch_ids: list[int]
    event_counts: list[int]


class TailEvent(NamedTuple):
    offset: int
    idempotency_key: str
    customer_id: int
    customer: str
    event_type: str
    value: Decimal | None
    member: str | None
    operation: int
    occurred_at: datetime
    received_at: datetime
    properties: dict[str, Any] | None
    metric_codes: list[str]


async def look_at_batches(connection: AsyncConnection[Any], *, organization_id: int, floor: int) -> Look:
    cursor = await connection.execute(_LOOK, {"organization": organization_id, "floor": floor})
    row = await cursor.fetchone()
    assert row is not None  # an aggregate-free SELECT over one snapshot has one row
    return Look(*row)


async def find_latest_batch(connection: AsyncConnection[Any], *, organization_id: int) -> int:
    """Return the greatest batch id of the organization, 0 without any."""
    cursor = await connection.execute(_LATEST_BATCH, {"organization": organization_id})
    row = await cursor.fetchone()
    return int(row[0] or 0) if row else 0


async def list_events_of_batches(
    connection: AsyncConnection[Any], *, organization_id: int, batch_ids: Sequence[int], limit: int
) -> list[TailEvent]:
    """Return the newest events of these batches, oldest first."""
    async with connection.cursor(row_factory=class_row(TailEvent)) as cursor:
        await cursor.execute(
            _EVENTS_OF_BATCHES,
            {"organization": organization_id, "batches": list(batch_ids), "bits": OFFSET_BITS, "limit": limit},
        )
        return (await cursor.fetchall())[::-1]


async def list_events_after(
    connection: AsyncConnection[Any], *, organization_id: int, offset: int, limit: int
) -> list[TailEvent]:
    async with connection.cursor(row_factory=class_row(TailEvent)) as cursor:
        await cursor.execute(_EVENTS_AFTER, {"organization": organization_id, "offset": offset, "limit": limit})
        return await cursor.fetchall()
