"""Recounting the buckets that hold one event, from raw events: what a void does to the rollups.

Minutes and hours are counted anew from the raw events of one customer, days from their hours. Costs one customer's
events of one hour. Runs under the rollup lock.
"""

from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier, Literal
from pyroaring import BitMap

from metering.domain import DAY, HOUR, MINUTE, floor_time
from metering.feeds import list_feed_ids
from metering.models import Aggregation, Event, Metric
from metering.sql import expressions, member_sets

# The series that the event belongs to: the customer's total and its combination of dimensions. At most two rows.
_SERIES_OF_EVENT = """
SELECT series.id, series.dimensions_key, {member} AS member
FROM metering_event AS event
JOIN metering_series AS series
  ON series.organization_id = event.organization_id
 AND series.metric_id = %(metric)s
 AND series.customer_id = event.customer_id
 AND series.dimensions_key IN (''::bytea, sha256(convert_to(({dimensions})::text, 'UTF8')))
WHERE event.organization_id = %(organization)s AND event.idempotency_key = %(key)s AND {is_fed}
"""

_DELETE = """
DELETE FROM {table}
WHERE organization_id = %(organization)s AND series_id = %(series)s AND bucket_start = %(start)s
"""

# One row, or none when nothing is left in the bucket. Uses event_by_customer_time.
_COUNT_RAW = """
INSERT INTO {table} (
    organization_id, series_id, bucket_start, event_count, value_sum, value_min, value_max,
    last_value, last_at, last_offset
)
SELECT %(organization)s, %(series)s, %(start)s, event_count, value_sum, value_min, value_max,
       (last).value, (last).occurred_at, (last)."offset"
FROM (
    SELECT count(*) AS event_count, sum({quantity}) AS value_sum, min({quantity}) AS value_min,
           max({quantity}) AS value_max,
           max(ROW(event.occurred_at, event."offset", {quantity}))::text::metering_reading AS last
    FROM metering_event AS event
    WHERE event.organization_id = %(organization)s
      AND event.customer_id = %(customer)s
      AND event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
      AND event.feed_id = ANY(%(feeds)s)
      AND {is_fed}
      AND (%(dimensions_key)s = ''::bytea
           OR sha256(convert_to(({dimensions})::text, 'UTF8')) = %(dimensions_key)s)
      AND NOT EXISTS (
          SELECT FROM metering_eventvoid AS void
          WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
      )
      AND NOT EXISTS (
          SELECT FROM metering_ingestbatch AS batch
          WHERE batch.organization_id = event.organization_id AND batch.id = event."offset" >> 13 AND batch.state = 0
      )
) AS counted
WHERE event_count > 0
"""

# One row, or none when no hour of the day is left.
_COUNT_HOURS = """
INSERT INTO metering_rollup_day (
    organization_id, series_id, bucket_start, event_count, value_sum, value_min, value_max,
    last_value, last_at, last_offset
)
SELECT %(organization)s, %(series)s, %(start)s, event_count, value_sum, value_min, value_max,
       (last).value, (last).occurred_at, (last)."offset"
FROM (
    SELECT sum(event_count) AS event_count, sum(value_sum) AS value_sum, min(value_min) AS value_min,
           max(value_max) AS value_max,
           max(ROW(last_at, last_offset, last_value))::text::metering_reading AS last
    FROM metering_rollup_hour
    WHERE organization_id = %(organization)s AND series_id = %(series)s
      AND bucket_start >= %(start)s AND bucket_start < %(end)s
) AS counted
WHERE event_count > 0
"""


class SeriesOfEvent(NamedTuple):
    id: int
    dimensions_key: bytes
    member: str | None


def recount_event(*, metric: Metric, event: Event, minutes_from: datetime | None) -> None:
    """Count anew, for one metric, every bucket that the event lies in. Does nothing if the event does not feed it."""
    parts = {
        "quantity": expressions.quantity(metric),
        "is_fed": expressions.is_fed(metric),
        "dimensions": expressions.dimensions(metric),
        "member": expressions.member(metric),
    }
    feed_ids = list_feed_ids(metric)
    for series in _list_series(metric, event, parts):
        names = {
            "organization": event.organization_id,
            "series": series.id,
            "customer": event.customer_id,
            "feeds": feed_ids,
            "dimensions_key": series.dimensions_key,
        }
        at = event.occurred_at
        if minutes_from is not None and at >= minutes_from:
            _replace_bucket("metering_rollup_minute", _COUNT_RAW, floor_time(at, MINUTE), MINUTE, names, parts)
        _replace_bucket("metering_rollup_hour", _COUNT_RAW, floor_time(at, HOUR), HOUR, names, parts)
        _replace_bucket("metering_rollup_day", _COUNT_HOURS, floor_time(at, DAY), DAY, names, parts)
        if metric.aggregation == Aggregation.COUNT_UNIQUE and series.member is not None:
            _recount_member(metric, event, series)


def _list_series(metric: Metric, event: Event, parts: dict[str, Composable]) -> list[SeriesOfEvent]:
    statement = SQL(_SERIES_OF_EVENT).format(
        member=parts["member"], dimensions=parts["dimensions"], is_fed=parts["is_fed"]
    )
    names: dict[str, Any] = {"organization": event.organization_id, "metric": metric.pk, "key": event.idempotency_key}
    with connection.cursor() as cursor:
        cursor.execute(statement, names)
        return [SeriesOfEvent(row[0], bytes(row[1]), row[2]) for row in cursor.fetchall()]


def _replace_bucket(
    table: str, count: str, start: datetime, width: Any, names: dict[str, Any], parts: dict[str, Composable]
) -> None:
    bucket = {**names, "start": start, "end": start + width}
    with connection.cursor() as cursor:
        cursor.execute(SQL(_DELETE).format(table=Identifier(table)), bucket)
        cursor.execute(SQL(count).format(table=Identifier(table), **parts), bucket)


def _recount_member(metric: Metric, event: Event, series: SeriesOfEvent) -> None:
    """Put the voided event's member where its remaining operations of the bucket say."""
    widths = [(member_sets.DAY_WIDTH, DAY)]
    if not series.dimensions_key:
        widths.append((member_sets.HOUR_WIDTH, HOUR))
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(
                "SELECT number FROM metering_member WHERE organization_id = {} AND metric_id = {} AND member = {}"
            ).format(Literal(event.organization_id), Literal(metric.pk), Literal(series.member))
        )
        number = cursor.fetchone()[0]
    for code, width in widths:
        start = floor_time(event.occurred_at, width)
        last = member_sets.list_last_operations(
            metric=metric,
            series_id=series.id,
            customer_id=event.customer_id,
            width=code,
            bucket_start=start,
            numbers=[number],
        )
        member_sets.replace_members(
            organization_id=event.organization_id,
            series_id=series.id,
            width=code,
            bucket_start=start,
            numbers=BitMap([number]),
            last=last,
        )
