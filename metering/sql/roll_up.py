"""Rolling pending batches up into series and rollups: set-based, one pass over the events per metric.

All statements run in one transaction that holds the organization's rollup lock, so the rows they touch have no
other writer. Order of work: claim batches, stage cells per metric, create series, upsert each width, mark rolled.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier, Literal

from metering.models import Metric
from metering.sql import expressions

# Held by whoever changes an organization's rollups: the worker, a void, a rebuild; and by who draws a cut-off.
ROLLUP_LOCK = 0x4D42_0002

_CREATE_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS rollup_stage (
    metric_id bigint NOT NULL,
    customer_id bigint NOT NULL,
    dimensions text[],
    dimensions_key bytea NOT NULL,
    bucket_start timestamptz NOT NULL,
    event_count bigint NOT NULL,
    value_sum numeric,
    value_min numeric,
    value_max numeric,
    last metering_reading NOT NULL
) ON COMMIT DELETE ROWS;
DELETE FROM rollup_stage
"""

# The oldest pending batches whose events together stay within the chunk. Uses batch_pending.
_CLAIM = """
WITH oldest AS (
    SELECT id, event_count, feed_ids
    FROM metering_ingestbatch
    WHERE organization_id = %(organization)s AND state = 0
    ORDER BY id
    LIMIT %(max_batches)s
    FOR UPDATE SKIP LOCKED
), running AS (
    SELECT id, event_count, feed_ids, sum(event_count) OVER (ORDER BY id) - event_count AS events_before
    FROM oldest
)
SELECT id, event_count, feed_ids FROM running WHERE events_before < %(max_events)s ORDER BY id
"""

# One row per customer, dimension values and bucket of the claimed events; minutes where minute rollups are kept,
# hours before. max(ROW(…)) is the latest reading: greatest time, then greatest offset. A record has no cast to its
# type, hence the way through text, once per group.
# OFFSET 0 keeps the planner from turning the look-ups by event_by_offset, one per batch, into a scan of all events, as
# it does while its statistics lag behind a fast-growing table.
_STAGE = """
INSERT INTO rollup_stage
SELECT {metric}, customer_id, dimensions,
       CASE WHEN dimensions IS NULL THEN ''::bytea ELSE sha256(convert_to(dimensions::text, 'UTF8')) END,
       bucket_start, count(*), sum(quantity), min(quantity), max(quantity),
       max(ROW(occurred_at, "offset", quantity))::text::metering_reading
FROM (
    SELECT event.customer_id, event.occurred_at, event."offset",
           {dimensions} AS dimensions,
           {quantity} AS quantity,
           CASE WHEN event.occurred_at >= %(minutes_from)s
                THEN date_bin('1 minute', event.occurred_at, 'epoch')
                ELSE date_bin('1 hour', event.occurred_at, 'epoch')
           END AS bucket_start
    FROM unnest(%(batches)s::bigint[]) AS batch(id)
    CROSS JOIN LATERAL (
        SELECT *
        FROM metering_event
        WHERE organization_id = %(organization)s
          AND "offset" >= batch.id << 13
          AND "offset" < (batch.id + 1) << 13
        OFFSET 0
    ) AS event
    WHERE event.feed_id = ANY(%(feeds)s)
      AND {is_fed}
      AND NOT EXISTS (
          SELECT FROM metering_eventvoid AS void
          WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
      )
) AS fed
GROUP BY customer_id, dimensions, bucket_start
"""

# One series per staged customer and metric, and one per combination of dimension values.
_CREATE_SERIES = """
INSERT INTO metering_series (organization_id, id, metric_id, customer_id, dimensions, dimensions_key)
SELECT %(organization)s, nextval('metering_series_id_seq'), wanted.*
FROM (
    SELECT metric_id, customer_id, NULL::text[] AS dimensions, ''::bytea AS dimensions_key FROM rollup_stage
    UNION
    SELECT metric_id, customer_id, dimensions, dimensions_key FROM rollup_stage
) AS wanted
WHERE NOT EXISTS (
    SELECT FROM metering_series AS series
    WHERE series.organization_id = %(organization)s
      AND series.metric_id = wanted.metric_id
      AND series.customer_id = wanted.customer_id
      AND series.dimensions_key = wanted.dimensions_key
)
ON CONFLICT DO NOTHING
"""

# The ids of the staged series, probed once (OFFSET 0) and analyzed: by the statistics of a young table, the planner
# takes its series for one row and would pass over the whole stage for each of them.
_LIST_SERIES = """
CREATE TEMPORARY TABLE IF NOT EXISTS series_stage (
    id bigint NOT NULL,
    metric_id bigint NOT NULL,
    customer_id bigint NOT NULL,
    dimensions_key bytea NOT NULL
) ON COMMIT DELETE ROWS;
DELETE FROM series_stage;
INSERT INTO series_stage
SELECT series.id, wanted.*
FROM (
    SELECT metric_id, customer_id, ''::bytea AS dimensions_key FROM rollup_stage
    UNION
    SELECT metric_id, customer_id, dimensions_key FROM rollup_stage
) AS wanted
CROSS JOIN LATERAL (
    SELECT id
    FROM metering_series
    WHERE organization_id = {organization}
      AND metric_id = wanted.metric_id
      AND customer_id = wanted.customer_id
      AND dimensions_key = wanted.dimensions_key
    OFFSET 0
) AS series;
ANALYZE series_stage
"""

# One row per series and bucket, added to what the bucket holds already. `{key}` picks the customer's total or the
# combination of dimensions; metrics without dimensions have the total alone.
_UPSERT = """
INSERT INTO {table} AS kept (
    organization_id, series_id, bucket_start, event_count, value_sum, value_min, value_max,
    last_value, last_at, last_offset
)
SELECT %(organization)s, series_id, bucket_start, event_count, value_sum, value_min, value_max,
       (last).value, (last).occurred_at, (last)."offset"
FROM (
    SELECT series.id AS series_id, date_bin({width}, stage.bucket_start, 'epoch') AS bucket_start,
           sum(stage.event_count) AS event_count, sum(stage.value_sum) AS value_sum,
           min(stage.value_min) AS value_min, max(stage.value_max) AS value_max,
           max(stage.last)::text::metering_reading AS last
    FROM rollup_stage AS stage
    JOIN series_stage AS series
      ON series.metric_id = stage.metric_id
     AND series.customer_id = stage.customer_id
     AND series.dimensions_key = {key}
    WHERE {condition}
    GROUP BY 1, 2
) AS per_bucket
ORDER BY series_id, bucket_start
ON CONFLICT (organization_id, series_id, bucket_start) DO UPDATE SET
    event_count = kept.event_count + EXCLUDED.event_count,
    value_sum = COALESCE(kept.value_sum + EXCLUDED.value_sum, kept.value_sum, EXCLUDED.value_sum),
    value_min = LEAST(kept.value_min, EXCLUDED.value_min),
    value_max = GREATEST(kept.value_max, EXCLUDED.value_max),
    last_value = CASE WHEN (EXCLUDED.last_at, EXCLUDED.last_offset) > (kept.last_at, kept.last_offset)
                      THEN EXCLUDED.last_value ELSE kept.last_value END,
    last_offset = CASE WHEN (EXCLUDED.last_at, EXCLUDED.last_offset) > (kept.last_at, kept.last_offset)
                       THEN EXCLUDED.last_offset ELSE kept.last_offset END,
    last_at = GREATEST(kept.last_at, EXCLUDED.last_at)
"""

_MARK_ROLLED = """
UPDATE metering_ingestbatch SET state = 1, rolled_at = %(now)s
WHERE organization_id = %(organization)s AND id = ANY(%(batches)s)
"""


# The three widths, finest first. Hours and days take the minutes as well.
WIDTHS = (
    ("metering_rollup_minute", "1 minute"),
    ("metering_rollup_hour", "1 hour"),
    ("metering_rollup_day", "1 day"),
)


class ClaimedBatch(NamedTuple):
    id: int
    event_count: int
    feed_ids: list[int]


def try_lock(*, organization_id: int) -> bool:
    """Take the organization's rollup lock for this transaction, or return False at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [ROLLUP_LOCK, organization_id])
        return cursor.fetchone()[0]


def lock(*, organization_id: int) -> None:
    """Take the organization's rollup lock for this transaction, waiting for a rollup under way."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [ROLLUP_LOCK, organization_id])


def claim_batches(*, organization_id: int, max_batches: int, max_events: int) -> list[ClaimedBatch]:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"organization": organization_id, "max_batches": max_batches, "max_events": max_events})
        return [ClaimedBatch(*row) for row in cursor.fetchall()]


def stage_metric(*, metric: Metric, batch_ids: Sequence[int], feed_ids: Sequence[int], minutes_from: datetime) -> None:
    """Aggregate the claimed events that feed one metric into this transaction's stage."""
    statement = SQL(_STAGE).format(
        metric=SQL("{}").format(metric.pk),
        dimensions=expressions.dimensions(metric),
        quantity=expressions.quantity(metric),
        is_fed=expressions.is_fed(metric),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            statement,
            {
                "organization": metric.organization_id,
                "batches": list(batch_ids),
                "feeds": list(feed_ids),
                "minutes_from": minutes_from,
            },
        )


def create_stage() -> None:
    with connection.cursor() as cursor:
        cursor.execute(_CREATE_STAGE)


def create_series(*, organization_id: int) -> None:
    """Create the staged series that are new, and stage the ids of all of them."""
    with connection.cursor() as cursor:
        # Without statistics the planner takes the stage for tiny and joins row by row.
        cursor.execute("ANALYZE rollup_stage")
        cursor.execute(_CREATE_SERIES, {"organization": organization_id})
        cursor.execute(SQL(_LIST_SERIES).format(organization=Literal(organization_id)))


def upsert_rollups(*, organization_id: int, minutes_from: datetime) -> None:
    """Add the staged cells to the rollups of all widths, of the totals and of the combinations."""
    grains: tuple[tuple[Composable, Composable], ...] = (
        (SQL("''::bytea"), SQL("TRUE")),
        (SQL("stage.dimensions_key"), SQL("stage.dimensions IS NOT NULL")),
    )
    with connection.cursor() as cursor:
        for table, width in WIDTHS:
            is_kept = SQL("stage.bucket_start >= %(minutes_from)s") if width == "1 minute" else SQL("TRUE")
            for key, has_grain in grains:
                statement = SQL(_UPSERT).format(
                    table=Identifier(table),
                    width=width,
                    key=key,
                    condition=expressions.conjunction([has_grain, is_kept]),
                )
                cursor.execute(statement, {"organization": organization_id, "minutes_from": minutes_from})


def mark_rolled(*, organization_id: int, batch_ids: Sequence[int], now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_MARK_ROLLED, {"organization": organization_id, "batches": list(batch_ids), "now": now})
