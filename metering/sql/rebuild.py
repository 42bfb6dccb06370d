"""Recounting stored aggregates from raw events, by ranges of whole UTC days, and comparing the two.

Written apart from the statements of the rollup worker on purpose: what they share is the meaning of a metric
(`expressions`), so that a mistake in how batches are added up shows as a difference here.

All statements about one metric and range run in one transaction, over one snapshot (verify) or under the rollup
lock (repair). Customers that were erased have no raw events left and are on neither side. Raw events are aggregated
once, into this transaction's stage; PostgreSQL spills what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier

from metering.domain import Span
from metering.models import Metric
from metering.sql import expressions, member_sets, roll_up

# Rows that a comparison fetches at once; a row of members holds one customer's bucket.
FETCH_ROWS = 500

# One row per UTC day in which anything happened or is stored, with its raw events, pending and voided ones too: the
# work ahead. Expected size: the days of the organization's history. Uses event_by_time alone for the events.
_DAYS = """
WITH counted AS (
    SELECT date_bin('1 day', occurred_at, 'epoch') AS day, count(*) AS event_count
    FROM metering_event
    WHERE organization_id = %(organization)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
    GROUP BY 1
), stored AS (
    SELECT date_bin('1 day', bucket_start, 'epoch') AS day FROM metering_rollup_minute
    WHERE organization_id = %(organization)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
    UNION
    SELECT date_bin('1 day', bucket_start, 'epoch') FROM metering_rollup_hour
    WHERE organization_id = %(organization)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
    UNION
    SELECT date_bin('1 day', bucket_start, 'epoch') FROM metering_rollup_day
    WHERE organization_id = %(organization)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
    UNION
    SELECT date_bin('1 day', bucket_start, 'epoch') FROM metering_member_set
    WHERE organization_id = %(organization)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
)
SELECT day, COALESCE(event_count, 0) FROM counted FULL OUTER JOIN stored USING (day) ORDER BY day
"""

# The events of the range that count in the metric and are rolled up. Uses event_by_time.
_COUNTED_EVENTS = """
FROM metering_event AS event
WHERE event.organization_id = %(organization)s
  AND event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
  AND event.feed_id = ANY(%(feeds)s)
  AND {is_fed}
  AND NOT EXISTS (
      SELECT FROM metering_eventvoid AS void
      WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
  )
  AND NOT EXISTS (
      SELECT FROM metering_ingestbatch AS batch
      WHERE batch.organization_id = event.organization_id AND batch.id = event."offset" >> 13 AND batch.state = 0
  )
  AND event.customer_id NOT IN (SELECT customer_id FROM metering_erasure WHERE organization_id = %(organization)s)
"""

# One row per customer, dimension values and minute (before minutes are kept: hour), in the rollup's own stage.
_STAGE_CELLS = """
INSERT INTO rollup_stage (
    metric_id, customer_id, dimensions, dimensions_key, bucket_start,
    event_count, value_sum, value_min, value_max, last
)
SELECT %(metric)s, customer_id, dimensions,
       CASE WHEN dimensions IS NULL THEN ''::bytea ELSE sha256(convert_to(dimensions::text, 'UTF8')) END,
       bucket_start, count(*), sum(quantity), min(quantity), max(quantity),
       max(ROW(occurred_at, "offset", quantity))::text::metering_reading
FROM (
    SELECT event.customer_id, event.occurred_at, event."offset",
           {dimensions} AS dimensions, {quantity} AS quantity,
           date_bin(
               CASE WHEN event.occurred_at >= %(minutes_from)s THEN interval '1 minute' ELSE interval '1 hour' END,
               event.occurred_at, 'epoch'
           ) AS bucket_start
    {events}
) AS counted
GROUP BY customer_id, dimensions, bucket_start
"""

# One row per bucket that is not what the raw events say; null on the side where there is no such bucket.
_DIFFERENCES = """
CREATE TEMPORARY TABLE IF NOT EXISTS rollup_difference (
    series_id bigint,
    customer_id bigint NOT NULL,
    dimensions text[],
    dimensions_key bytea NOT NULL,
    bucket_start timestamptz NOT NULL,
    stored_count bigint,
    stored_sum numeric,
    stored_min numeric,
    stored_max numeric,
    stored_last metering_reading,
    counted_count bigint,
    counted_sum numeric,
    counted_min numeric,
    counted_max numeric,
    counted_last metering_reading
) ON COMMIT DELETE ROWS;
DELETE FROM rollup_difference
"""

_COMPARE_CELLS = """
WITH counted AS (
    SELECT customer_id, {dimensions_key} AS dimensions_key, {dimensions} AS dimensions,
           date_bin({width}, bucket_start, 'epoch') AS bucket_start,
           sum(event_count)::bigint AS event_count, sum(value_sum) AS value_sum,
           min(value_min) AS value_min, max(value_max) AS value_max,
           max(last)::text::metering_reading AS last
    FROM rollup_stage
    WHERE bucket_start >= %(start)s AND {has_grain}
    GROUP BY 1, 2, 3, 4
), stored AS (
    SELECT series.id AS series_id, series.customer_id, series.dimensions_key, series.dimensions, rollup.bucket_start,
           rollup.event_count, rollup.value_sum, rollup.value_min, rollup.value_max,
           ROW(rollup.last_at, rollup.last_offset, rollup.last_value)::metering_reading AS last
    FROM metering_series AS series
    JOIN {table} AS rollup
      ON rollup.organization_id = series.organization_id
     AND rollup.series_id = series.id
     AND rollup.bucket_start >= %(start)s
     AND rollup.bucket_start < %(end)s
    WHERE series.organization_id = %(organization)s AND series.metric_id = %(metric)s
      AND (series.dimensions_key = ''::bytea) = %(is_total)s
      AND series.customer_id NOT IN (SELECT customer_id FROM metering_erasure WHERE organization_id = %(organization)s)
)
INSERT INTO rollup_difference
SELECT stored.series_id, customer_id, COALESCE(stored.dimensions, counted.dimensions), dimensions_key, bucket_start,
       stored.event_count, stored.value_sum, stored.value_min, stored.value_max, stored.last,
       counted.event_count, counted.value_sum, counted.value_min, counted.value_max, counted.last
FROM stored
FULL OUTER JOIN counted USING (customer_id, dimensions_key, bucket_start)
WHERE (stored.event_count, stored.value_sum, stored.value_min, stored.value_max, stored.last)
      IS DISTINCT FROM
      (counted.event_count, counted.value_sum, counted.value_min, counted.value_max, counted.last)
"""

_LIST_DIFFERENCES = """
SELECT customer.external_id, dimensions, bucket_start,
       stored_count, stored_sum, stored_min, stored_max, stored_last::text,
       counted_count, counted_sum, counted_min, counted_max, counted_last::text
FROM rollup_difference
LEFT JOIN accounts_customer AS customer ON customer.id = customer_id
ORDER BY bucket_start, customer_id, dimensions
"""

_DELETE_DIFFERENT = """
DELETE FROM {table} AS rollup
USING rollup_difference AS difference
WHERE rollup.organization_id = %(organization)s
  AND rollup.series_id = difference.series_id
  AND rollup.bucket_start = difference.bucket_start
"""

_INSERT_COUNTED = """
INSERT INTO {table} (
    organization_id, series_id, bucket_start, event_count, value_sum, value_min, value_max,
    last_value, last_at, last_offset
)
SELECT %(organization)s, series.id, difference.bucket_start, counted_count, counted_sum, counted_min, counted_max,
       (counted_last).value, (counted_last).occurred_at, (counted_last)."offset"
FROM rollup_difference AS difference
JOIN series_stage AS series
  ON series.metric_id = %(metric)s
 AND series.customer_id = difference.customer_id
 AND series.dimensions_key = difference.dimensions_key
WHERE counted_count IS NOT NULL
"""

# Stored buckets that belong to no metric of the organization: nothing ever reads them.
_ORPHANS = """
FROM {table} AS stored
WHERE stored.organization_id = %(organization)s
  AND stored.bucket_start >= %(start)s AND stored.bucket_start < %(end)s
  AND NOT EXISTS (
      SELECT FROM metering_series AS series
      JOIN metering_metric AS metric ON metric.id = series.metric_id
      WHERE series.organization_id = stored.organization_id AND series.id = stored.series_id
        AND metric.organization_id = stored.organization_id
  )
"""

_CREATE_OPERATIONS = """
CREATE TEMPORARY TABLE IF NOT EXISTS counted_operation (
    customer_id bigint NOT NULL,
    dimensions text[],
    dimensions_key bytea NOT NULL,
    member text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    "offset" bigint NOT NULL,
    operation smallint NOT NULL
) ON COMMIT DELETE ROWS;
DELETE FROM counted_operation
"""

# One row per counted event, for metrics that count members.
_STAGE_OPERATIONS = """
INSERT INTO counted_operation
SELECT customer_id, dimensions,
       CASE WHEN dimensions IS NULL THEN ''::bytea ELSE sha256(convert_to(dimensions::text, 'UTF8')) END,
       member, occurred_at, "offset", operation
FROM (
    SELECT event.customer_id, {dimensions} AS dimensions, {member} AS member,
           event.occurred_at, event."offset", event.operation
    {events}
) AS counted
"""

# Members that the dictionary lacks get the next free numbers; the rollup lock keeps them dense.
_NUMBER_MEMBERS = """
INSERT INTO metering_member (organization_id, metric_id, member, number)
SELECT %(organization)s, %(metric)s, member,
       (SELECT COALESCE(max(number), -1) FROM metering_member
        WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND number >= 0)
       + row_number() OVER (ORDER BY member)
FROM (SELECT DISTINCT member FROM counted_operation) AS counted
WHERE (
    SELECT number FROM metering_member AS known
    WHERE known.organization_id = %(organization)s AND known.metric_id = %(metric)s AND known.member = counted.member
) IS NULL
"""

# One row per bucket that has members or a stored set: who was last added and who last removed by raw events, and
# the stored bitmaps. The comparison is the caller's: SQL cannot look into a bitmap.
_COMPARE_MEMBERS = """
WITH last_operation AS (
    SELECT DISTINCT ON (customer_id, dimensions_key, bucket_start, staged.member)
           customer_id, {dimensions_key} AS dimensions_key, {dimensions} AS dimensions,
           date_bin({width}, occurred_at, 'epoch') AS bucket_start, operation, known.number
    FROM counted_operation AS staged
    LEFT JOIN LATERAL (
        SELECT number
        FROM metering_member
        WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND member = staged.member
        OFFSET 0
    ) AS known ON TRUE
    WHERE {has_grain}
    ORDER BY customer_id, dimensions_key, bucket_start, staged.member, occurred_at DESC, "offset" DESC
), counted AS (
    SELECT customer_id, dimensions_key, dimensions, bucket_start,
           array_agg(number) FILTER (WHERE operation = 0 AND number IS NOT NULL) AS added,
           array_agg(number) FILTER (WHERE operation = 1 AND number IS NOT NULL) AS removed,
           count(*) FILTER (WHERE number IS NULL) AS unnumbered
    FROM last_operation
    GROUP BY customer_id, dimensions_key, dimensions, bucket_start
), stored AS (
    SELECT series.customer_id, series.dimensions_key, series.dimensions, kept.bucket_start, kept.added, kept.removed
    FROM metering_series AS series
    JOIN metering_member_set AS kept
      ON kept.organization_id = series.organization_id
     AND kept.series_id = series.id
     AND kept.width = {code}
     AND kept.bucket_start >= %(start)s
     AND kept.bucket_start < %(end)s
    WHERE series.organization_id = %(organization)s AND series.metric_id = %(metric)s
      AND (series.dimensions_key = ''::bytea) = %(is_total)s
      AND series.customer_id NOT IN (SELECT customer_id FROM metering_erasure WHERE organization_id = %(organization)s)
)
SELECT series.id, customer.external_id, COALESCE(stored.dimensions, counted.dimensions),
       bucket_start, stored.added, stored.removed, counted.added, counted.removed, COALESCE(counted.unnumbered, 0)
FROM stored
FULL OUTER JOIN counted USING (customer_id, dimensions_key, bucket_start)
LEFT JOIN metering_series AS series
  ON series.organization_id = %(organization)s
 AND series.metric_id = %(metric)s
 AND series.customer_id = COALESCE(stored.customer_id, counted.customer_id)
 AND series.dimensions_key = COALESCE(stored.dimensions_key, counted.dimensions_key)
LEFT JOIN accounts_customer AS customer ON customer.id = COALESCE(stored.customer_id, counted.customer_id)
"""


class DayRow(NamedTuple):
    day: datetime
    event_count: int


class CellColumns(NamedTuple):
    """One side of a comparison. `last` is PostgreSQL's text of the reading: time, offset, value."""

    event_count: int
    sum: Decimal | None
    min: Decimal | None
    max: Decimal | None
    last: str


class CellDifference(NamedTuple):
    """A bucket of one rollup table; a side without the bucket is None."""

    customer: str | None
    dimensions: list[str | None] | None
    bucket_start: datetime
    stored: CellColumns | None
    counted: CellColumns | None


class MemberComparison(NamedTuple):
    """A bucket of one kind of member sets. `unnumbered`: members of raw events that the dictionary lacks."""

    series_id: int | None
    customer: str | None
    dimensions: list[str | None] | None
    bucket_start: datetime
    stored_added: bytes | None
    stored_removed: bytes | None
    counted_added: list[int] | None
    counted_removed: list[int] | None
    unnumbered: int


class Grain(NamedTuple):
    """The customers' totals, or their combinations of dimension values."""

    is_total: bool

    @property
    def parts(self) -> dict[str, Composable]:
        if self.is_total:
            return {
                "dimensions_key": SQL("''::bytea"),
                "dimensions": SQL("NULL::text[]"),
                "has_grain": SQL("TRUE"),
            }
        return {
            "dimensions_key": SQL("dimensions_key"),
            "dimensions": SQL("dimensions"),
            "has_grain": SQL("dimensions IS NOT NULL"),
        }


TOTAL, COMBINATION = Grain(is_total=True), Grain(is_total=False)


class SetKind(NamedTuple):
    """One kind of member sets: their width as stored, as an interval, and what their series stand for."""

    width: str
    interval: str
    grain: Grain


SET_KINDS = (
    SetKind(member_sets.HOUR_WIDTH, "1 hour", TOTAL),
    SetKind(member_sets.DAY_WIDTH, "1 day", TOTAL),
    SetKind(member_sets.DAY_WIDTH, "1 day", COMBINATION),
)


def list_days(*, organization_id: int, start: datetime, end: datetime) -> list[DayRow]:
    with connection.cursor() as cursor:
        cursor.execute(_DAYS, {"organization": organization_id, "start": start, "end": end})
        return [DayRow(*row) for row in cursor.fetchall()]


# --- cells ----------------------------------------------------------------------------------------------------


def stage_cells(*, metric: Metric, feed_ids: Sequence[int], span: Span, minutes_from: datetime) -> None:
    """Aggregate the metric's rolled raw events of the span into the rollup's stage."""
    roll_up.create_stage()
    statement = SQL(_STAGE_CELLS).format(
        dimensions=expressions.dimensions(metric), quantity=expressions.quantity(metric), events=_events(metric)
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, {**_names(metric, span), "feeds": list(feed_ids), "minutes_from": minutes_from})
        cursor.execute("ANALYZE rollup_stage")


def compare_cells(*, metric: Metric, table: str, width: str, grain: Grain, span: Span) -> Iterator[CellDifference]:
    """Yield the buckets of one table that differ from the stage. Leaves them where `repair_cells` finds them."""
    statement = SQL(_COMPARE_CELLS).format(table=Identifier(table), width=width, **grain.parts)
    with connection.cursor() as cursor:
        cursor.execute(_DIFFERENCES)
        cursor.execute(statement, {**_names(metric, span), "is_total": grain.is_total})
        differing = cursor.rowcount
    if differing:
        for customer, dimensions, bucket_start, *columns in _stream(SQL(_LIST_DIFFERENCES), {}):
            yield CellDifference(customer, dimensions, bucket_start, _side(columns[:5]), _side(columns[5:]))


def repair_cells(*, metric: Metric, table: str) -> None:
    """Make the buckets that the last comparison found what the raw events say. Needs `roll_up.create_series` before."""
    names = {"organization": metric.organization_id, "metric": metric.pk}
    with connection.cursor() as cursor:
        cursor.execute(SQL(_DELETE_DIFFERENT).format(table=Identifier(table)), names)
        cursor.execute(SQL(_INSERT_COUNTED).format(table=Identifier(table)), names)


def count_orphans(*, organization_id: int, table: str, span: Span) -> int:
    statement = SQL("SELECT count(*) {}").format(SQL(_ORPHANS).format(table=Identifier(table)))
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization": organization_id, "start": span.start, "end": span.end})
        return cursor.fetchone()[0]


def delete_orphans(*, organization_id: int, table: str, span: Span) -> None:
    statement = SQL("DELETE {}").format(SQL(_ORPHANS).format(table=Identifier(table)))
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization": organization_id, "start": span.start, "end": span.end})


# --- members --------------------------------------------------------------------------------------------------


def stage_operations(*, metric: Metric, feed_ids: Sequence[int], span: Span) -> None:
    """Collect the operations of the metric's rolled raw events of the span."""
    statement = SQL(_STAGE_OPERATIONS).format(
        dimensions=expressions.dimensions(metric), member=expressions.member(metric), events=_events(metric)
    )
    with connection.cursor() as cursor:
        cursor.execute(_CREATE_OPERATIONS)
        cursor.execute(statement, {**_names(metric, span), "feeds": list(feed_ids)})
        cursor.execute("ANALYZE counted_operation")


def number_members(*, metric: Metric) -> None:
    """Enter the collected members into the dictionary. Needs the rollup lock."""
    with connection.cursor() as cursor:
        cursor.execute(_NUMBER_MEMBERS, {"organization": metric.organization_id, "metric": metric.pk})


def compare_members(*, metric: Metric, kind: SetKind, span: Span) -> Iterator[MemberComparison]:
    """Yield every bucket with members or a stored set, a few at a time: bitmaps may be large."""
    statement = SQL(_COMPARE_MEMBERS).format(width=kind.interval, code=kind.width, **kind.grain.parts)
    for row in _stream(statement, {**_names(metric, span), "is_total": kind.grain.is_total}):
        yield MemberComparison(*row)


# --- parts ----------------------------------------------------------------------------------------------------


def _events(metric: Metric) -> Composable:
    return SQL(_COUNTED_EVENTS).format(is_fed=expressions.is_fed(metric))


def _names(metric: Metric, span: Span) -> dict[str, Any]:
    return {"organization": metric.organization_id, "metric": metric.pk, "start": span.start, "end": span.end}


def _stream(statement: Composable, names: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows through a cursor of the server, so that their number does not matter."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(statement, names)
        while rows := cursor.fetchmany(FETCH_ROWS):
            yield from rows


def _side(columns: Sequence[Any]) -> CellColumns | None:
    return None if columns[0] is None else CellColumns(*columns)
