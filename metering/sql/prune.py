"""Deleting old rows of one event type, and all raw events of one customer, a bounded number per statement.

Each statement is a short transaction of its own and goes on where the one before ended, so that none passes over
rows that are there to stay, or over what was just deleted. Whoever calls sees to the horizons first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connection
from psycopg.sql import SQL, Identifier

from metering.domain import EPOCH

# Every store of buckets, with what a report calls its rows.
BUCKET_TABLES = (
    ("minutes", "metering_rollup_minute"),
    ("hours", "metering_rollup_hour"),
    ("days", "metering_rollup_day"),
    ("member_sets", "metering_member_set"),
)

# Rolled events of the type older than the horizon and known for as long: a late arrival keeps its full time, so that
# its retry is still recognised. Uses event_by_time.
_OLD_EVENTS = """
SELECT event.ctid, event.occurred_at
FROM metering_event AS event
WHERE event.organization_id = %(organization)s
  AND event.occurred_at >= %(after)s AND event.occurred_at < %(before)s
  AND event.received_at < %(before)s
  AND event.feed_id = ANY(%(feeds)s)
  AND NOT EXISTS (
      SELECT FROM metering_ingestbatch AS batch
      WHERE batch.organization_id = event.organization_id AND batch.id = event."offset" >> 13 AND batch.state = 0
  )
ORDER BY event.occurred_at
LIMIT %(limit)s
"""

# Rolled events of the customer. Uses event_by_customer_time.
_EVENTS_OF_CUSTOMER = """
SELECT event.ctid, event.occurred_at
FROM metering_event AS event
WHERE event.organization_id = %(organization)s
  AND event.customer_id = %(customer)s
  AND event.occurred_at >= %(after)s
  AND NOT EXISTS (
      SELECT FROM metering_ingestbatch AS batch
      WHERE batch.organization_id = event.organization_id AND batch.id = event."offset" >> 13 AND batch.state = 0
  )
ORDER BY event.occurred_at
LIMIT %(limit)s
"""

# One row. An event is never updated, so within a statement its place in the table names it, and finding it costs
# nothing. Its void goes with it: a new event under the same key is not the one that was taken back.
_DELETE_EVENTS = """
WITH doomed AS MATERIALIZED ({events}
), deleted AS (
    DELETE FROM metering_event
    WHERE organization_id = %(organization)s AND ctid = ANY(ARRAY(SELECT ctid FROM doomed))
    RETURNING idempotency_key
), unvoided AS (
    DELETE FROM metering_eventvoid AS void
    USING deleted
    WHERE void.organization_id = %(organization)s AND void.idempotency_key = deleted.idempotency_key
    RETURNING void.idempotency_key
)
SELECT (SELECT count(*) FROM deleted), min(occurred_at), max(occurred_at), ARRAY(SELECT idempotency_key FROM unvoided)
FROM doomed
"""

_COUNT_EVENTS = """
SELECT count(*), min(occurred_at), max(occurred_at)
FROM metering_event
WHERE organization_id = %(organization)s
  AND occurred_at < %(before)s AND received_at < %(before)s
  AND feed_id = ANY(%(feeds)s)
"""

# Rolled batches of the type without events left: nothing refers to them any more. Uses the primary key, and
# event_by_offset for each.
_DELETE_BATCHES = """
WITH old AS MATERIALIZED (
    SELECT id
    FROM metering_ingestbatch
    WHERE organization_id = %(organization)s
      AND id > %(after)s
      AND state = 1
      AND received_at < %(before)s
      AND feed_ids && %(feeds)s::bigint[]
    ORDER BY id
    LIMIT %(limit)s
), deleted AS (
    DELETE FROM metering_ingestbatch AS batch
    USING old
    WHERE batch.organization_id = %(organization)s AND batch.id = old.id
      AND NOT EXISTS (
          SELECT FROM metering_event AS event
          WHERE event.organization_id = %(organization)s
            AND event."offset" >= old.id << 13 AND event."offset" < (old.id + 1) << 13
      )
    RETURNING batch.id
)
SELECT (SELECT count(*) FROM deleted), max(id)
FROM old
"""

# Ids of the series of some metrics. Uses the primary key.
_LIST_SERIES = """
SELECT id
FROM metering_series
WHERE organization_id = %(organization)s AND id > %(after)s AND metric_id = ANY(%(metrics)s)
ORDER BY id
LIMIT %(limit)s
"""

# Uses the primary key: one range of each series.
_DELETE_BUCKETS = """
DELETE FROM {table}
WHERE organization_id = %(organization)s
  AND ctid = ANY(ARRAY(
      SELECT ctid
      FROM {table}
      WHERE organization_id = %(organization)s
        AND series_id = ANY(%(series)s)
        AND bucket_start < %(before)s
      LIMIT %(limit)s
  ))
"""

_COUNT_BUCKETS = """
SELECT count(*)
FROM metering_series AS series
JOIN {table} AS stored
  ON stored.organization_id = series.organization_id AND stored.series_id = series.id
 AND stored.bucket_start < %(before)s
WHERE series.organization_id = %(organization)s AND series.metric_id = ANY(%(metrics)s)
"""

# Of the customers' totals, one probe each. Uses series_once and the primary key.
_HAS_DAYS = """
SELECT EXISTS (
    SELECT
    FROM metering_series AS series
    JOIN metering_rollup_day AS stored
      ON stored.organization_id = series.organization_id AND stored.series_id = series.id
     AND stored.bucket_start < %(before)s
    WHERE series.organization_id = %(organization)s
      AND series.metric_id = ANY(%(metrics)s)
      AND series.dimensions_key = ''::bytea
)
"""

# Series of which no bucket is left. Needs the rollup lock: the worker creates a series before its buckets.
_DELETE_EMPTY_SERIES = """
DELETE FROM metering_series AS series
WHERE series.organization_id = %(organization)s
  AND series.id = ANY(%(series)s)
  AND NOT EXISTS (
      SELECT FROM metering_rollup_day WHERE organization_id = series.organization_id AND series_id = series.id
  )
  AND NOT EXISTS (
      SELECT FROM metering_rollup_hour WHERE organization_id = series.organization_id AND series_id = series.id
  )
  AND NOT EXISTS (
      SELECT FROM metering_rollup_minute WHERE organization_id = series.organization_id AND series_id = series.id
  )
  AND NOT EXISTS (
      SELECT FROM metering_member_set WHERE organization_id = series.organization_id AND series_id = series.id
  )
"""


class DeletedEvents(NamedTuple):
    """What one statement did. `latest` is where the next one goes on; None: nothing is left."""

    row_count: int
    earliest: datetime | None
    latest: datetime | None
    # Of the deleted events that had been taken back.
    voided_keys: list[str]


class DeletedBatches(NamedTuple):
    row_count: int
    last_id: int | None


class CountedEvents(NamedTuple):
    row_count: int
    earliest: datetime | None
    latest: datetime | None


# --- raw events -----------------------------------------------------------------------------------------------


def delete_old_events(
    *, organization_id: int, feed_ids: Sequence[int], before: datetime, after: datetime = EPOCH, limit: int
) -> DeletedEvents:
    """Delete the oldest events of `[after, before)` that these feeds took in."""
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(_DELETE_EVENTS).format(events=SQL(_OLD_EVENTS)),
            {
                "organization": organization_id,
                "feeds": list(feed_ids),
                "before": before,
                "after": after,
                "limit": limit,
            },
        )
        return DeletedEvents(*cursor.fetchone())


def delete_customer_events(
    *, organization_id: int, customer_id: int, after: datetime = EPOCH, limit: int
) -> DeletedEvents:
    """Delete the customer's oldest events from `after` on, whatever their type."""
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(_DELETE_EVENTS).format(events=SQL(_EVENTS_OF_CUSTOMER)),
            {"organization": organization_id, "customer": customer_id, "after": after, "limit": limit},
        )
        return DeletedEvents(*cursor.fetchone())


def count_old_events(*, organization_id: int, feed_ids: Sequence[int], before: datetime) -> CountedEvents:
    """Count what `delete_old_events` would delete once everything is rolled up. Costs a pass over it."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_EVENTS, {"organization": organization_id, "feeds": list(feed_ids), "before": before})
        return CountedEvents(*cursor.fetchone())


def delete_old_batches(
    *, organization_id: int, feed_ids: Sequence[int], before: datetime, after: int, limit: int
) -> DeletedBatches:
    with connection.cursor() as cursor:
        cursor.execute(
            _DELETE_BATCHES,
            {
                "organization": organization_id,
                "feeds": list(feed_ids),
                "before": before,
                "after": after,
                "limit": limit,
            },
        )
        return DeletedBatches(*cursor.fetchone())


# --- rollups --------------------------------------------------------------------------------------------------


def list_series_ids(*, organization_id: int, metric_ids: Sequence[int], after: int, limit: int) -> list[int]:
    """Return ids of the metrics' series, ascending, from the one after `after`."""
    with connection.cursor() as cursor:
        cursor.execute(
            _LIST_SERIES,
            {"organization": organization_id, "metrics": list(metric_ids), "after": after, "limit": limit},
        )
        return [row[0] for row in cursor.fetchall()]


def delete_buckets(*, organization_id: int, table: str, series_ids: Sequence[int], before: datetime, limit: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(_DELETE_BUCKETS).format(table=Identifier(table)),
            {"organization": organization_id, "series": list(series_ids), "before": before, "limit": limit},
        )
        return cursor.rowcount


def delete_empty_series(*, organization_id: int, series_ids: Sequence[int]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_DELETE_EMPTY_SERIES, {"organization": organization_id, "series": list(series_ids)})
        return cursor.rowcount


def count_buckets(*, organization_id: int, table: str, metric_ids: Sequence[int], before: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(_COUNT_BUCKETS).format(table=Identifier(table)),
            {"organization": organization_id, "metrics": list(metric_ids), "before": before},
        )
        return cursor.fetchone()[0]


def has_old_days(*, organization_id: int, metric_ids: Sequence[int], before: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_HAS_DAYS, {"organization": organization_id, "metrics": list(metric_ids), "before": before})
        return cursor.fetchone()[0]
