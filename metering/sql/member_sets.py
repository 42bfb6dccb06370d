"""The exact sets behind count_unique: a dictionary of members and Roaring bitmaps per series and bucket.

A set keeps, per bucket, the members whose last operation there is an add (`added`) and those whose last is a
remove (`removed`). The bitmaps do not know times, so where a member would be in both, its last operation is read
from the raw events of the bucket.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection
from psycopg.sql import SQL
from pyroaring import BitMap

from metering.feeds import list_feed_ids
from metering.models import Metric, Operation
from metering.sql import expressions

HOUR_WIDTH, DAY_WIDTH = "h", "d"
_INTERVALS = {HOUR_WIDTH: "1 hour", DAY_WIDTH: "1 day"}

_CREATE_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS member_stage (
    customer_id bigint NOT NULL,
    dimensions_key bytea NOT NULL,
    member text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    "offset" bigint NOT NULL,
    operation smallint NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS member_set_stage (
    series_id bigint NOT NULL,
    width text NOT NULL,
    bucket_start timestamptz NOT NULL,
    added bytea NOT NULL,
    removed bytea
) ON COMMIT DELETE ROWS;
TRUNCATE member_stage, member_set_stage
"""

# One row per claimed event that names a member. OFFSET 0 as in `roll_up`: always by event_by_offset.
_STAGE = """
INSERT INTO member_stage
SELECT customer_id,
       CASE WHEN dimensions IS NULL THEN ''::bytea ELSE sha256(convert_to(dimensions::text, 'UTF8')) END,
       member, occurred_at, "offset", operation
FROM (
    SELECT event.customer_id, {dimensions} AS dimensions, {member} AS member,
           event.occurred_at, event."offset", event.operation
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
"""

# One dictionary row per member that the metric has not seen; numbers stay dense because the rollup lock is held.
_NUMBER_MEMBERS = """
INSERT INTO metering_member (organization_id, metric_id, member, number)
SELECT %(organization)s, %(metric)s, member,
       (SELECT COALESCE(max(number), -1) FROM metering_member
        WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND number >= 0)
       + row_number() OVER (ORDER BY member)
FROM (SELECT DISTINCT member FROM member_stage) AS staged
WHERE (
    SELECT number FROM metering_member AS known
    WHERE known.organization_id = %(organization)s AND known.metric_id = %(metric)s AND known.member = staged.member
) IS NULL
"""

# One row per series and bucket of the claimed events: who was last added and who was last removed among them,
# and what the bucket held before. OFFSET 0: a probe of a unique index per member and per bucket, whatever the
# statistics say; by those of a young table, one pass over the whole table for each looks as cheap.
_MERGE_INPUT = """
WITH numbered AS (
    SELECT stage.customer_id, {key} AS dimensions_key, date_bin({width}, stage.occurred_at, 'epoch') AS bucket_start,
           known.number, stage.operation, stage.occurred_at, stage."offset"
    FROM member_stage AS stage
    CROSS JOIN LATERAL (
        SELECT number
        FROM metering_member
        WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND member = stage.member
        OFFSET 0
    ) AS known
), last_operation AS (
    SELECT DISTINCT ON (customer_id, dimensions_key, bucket_start, number)
           customer_id, dimensions_key, bucket_start, number, operation
    FROM numbered
    ORDER BY customer_id, dimensions_key, bucket_start, number, occurred_at DESC, "offset" DESC
), per_bucket AS (
    SELECT customer_id, dimensions_key, bucket_start,
           array_agg(number) FILTER (WHERE operation = 0) AS newly_added,
           array_agg(number) FILTER (WHERE operation = 1) AS newly_removed
    FROM last_operation
    GROUP BY customer_id, dimensions_key, bucket_start
)
SELECT series.id, per_bucket.customer_id, per_bucket.bucket_start, per_bucket.newly_added, per_bucket.newly_removed,
       kept.added, kept.removed
FROM per_bucket
CROSS JOIN LATERAL (
    SELECT id
    FROM metering_series
    WHERE organization_id = %(organization)s
      AND metric_id = %(metric)s
      AND customer_id = per_bucket.customer_id
      AND dimensions_key = per_bucket.dimensions_key
    OFFSET 0
) AS series
LEFT JOIN LATERAL (
    SELECT added, removed
    FROM metering_member_set
    WHERE organization_id = %(organization)s
      AND series_id = series.id
      AND width = {code}
      AND bucket_start = per_bucket.bucket_start
    OFFSET 0
) AS kept ON TRUE
"""

_UPSERT = """
INSERT INTO metering_member_set AS kept (organization_id, series_id, width, bucket_start, added, removed)
SELECT %(organization)s, series_id, width, bucket_start, added, removed
FROM member_set_stage
ORDER BY series_id, width, bucket_start
ON CONFLICT (organization_id, series_id, width, bucket_start)
DO UPDATE SET added = EXCLUDED.added, removed = EXCLUDED.removed
"""

# The months of the written sets, each under a version that no other write of it has. In order, so that two
# transactions cannot wait for each other. Reads use days alone, so hours do not matter.
_MARK_MONTHS = """
INSERT INTO metering_member_month (organization_id, metric_id, month, version)
SELECT %(organization)s, written.metric_id, written.month, gen_random_uuid()
FROM (
    SELECT DISTINCT series.metric_id, date_trunc('month', stage.bucket_start, 'UTC') AS month
    FROM member_set_stage AS stage
    JOIN metering_series AS series ON series.organization_id = %(organization)s AND series.id = stage.series_id
    WHERE stage.width = 'd'
) AS written
ORDER BY written.metric_id, written.month
ON CONFLICT (organization_id, metric_id, month) DO UPDATE SET version = EXCLUDED.version
"""

_LIST_MONTH_VERSIONS = """
SELECT month, version::text
FROM metering_member_month
WHERE organization_id = %s AND metric_id = %s
ORDER BY month
"""

_SELECT_SET = """
SELECT added, removed FROM metering_member_set
WHERE organization_id = %(organization)s AND series_id = %(series)s AND width = %(width)s AND bucket_start = %(start)s
"""

# One row per member: its last operation in the bucket, by raw events that were not voided and are rolled or being
# rolled. Bounded by one customer and one bucket; uses event_by_customer_time.
_LAST_OPERATIONS = """
SELECT DISTINCT ON (known.number) known.number, event.operation
FROM metering_event AS event
JOIN metering_member AS known
  ON known.organization_id = %(organization)s AND known.metric_id = %(metric)s AND known.member = {member}
WHERE event.organization_id = %(organization)s
  AND event.customer_id = %(customer)s
  AND event.occurred_at >= %(start)s
  AND event.occurred_at < %(start)s + {width}::interval
  AND event.feed_id = ANY(%(feeds)s)
  AND known.number = ANY(%(numbers)s) AND known.number >= 0
  AND (%(key)s = ''::bytea OR sha256(convert_to(({dimensions})::text, 'UTF8')) = %(key)s)
  AND NOT EXISTS (
      SELECT FROM metering_eventvoid AS void
      WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
  )
  AND NOT EXISTS (
      SELECT FROM metering_ingestbatch AS batch
      WHERE batch.organization_id = event.organization_id AND batch.state = 0
        AND batch.id = event."offset" >> 13 AND NOT batch.id = ANY(%(claimed)s)
  )
ORDER BY known.number, event.occurred_at DESC, event."offset" DESC
"""


class MergeInput(NamedTuple):
    series_id: int
    customer_id: int
    bucket_start: datetime
    newly_added: list[int] | None
    newly_removed: list[int] | None
    added: bytes | None
    removed: bytes | None


class MemberSetRow(NamedTuple):
    series_id: int
    width: str
    bucket_start: datetime
    added: BitMap
    removed: BitMap


def create_stage() -> None:
    """Create this connection's staging tables, or empty them."""
    with connection.cursor() as cursor:
        cursor.execute(_CREATE_STAGE)


def add_batches(
    *, metric: Metric, batch_ids: Sequence[int], feed_ids: Sequence[int], raw_from: datetime | None
) -> None:
    """Add the claimed events' members to the sets: days of every series, hours of the customers' totals.

    In buckets before `raw_from` nobody can tell any more which operation of a member came last: there a late
    operation that contradicts the set changes nothing.
    """
    organization_id = metric.organization_id
    names = {"organization": organization_id, "metric": metric.pk}
    create_stage()
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(_STAGE).format(
                dimensions=expressions.dimensions(metric),
                member=expressions.member(metric),
                is_fed=expressions.is_fed(metric),
            ),
            {**names, "batches": list(batch_ids), "feeds": list(feed_ids)},
        )
        # Without statistics the planner takes the stage for tiny and joins row by row.
        cursor.execute("ANALYZE member_stage")
        cursor.execute(_NUMBER_MEMBERS, names)
    grains = [(HOUR_WIDTH, True), (DAY_WIDTH, True)] + ([(DAY_WIDTH, False)] if metric.dimensions else [])
    for width, is_total in grains:
        rows = [
            _merge(row, metric=metric, width=width, claimed=batch_ids, raw_from=raw_from)
            for row in _list_merge_input(metric, width, is_total)
        ]
        upsert_sets(organization_id=organization_id, rows=rows)


def _list_merge_input(metric: Metric, width: str, is_total: bool) -> list[MergeInput]:
    statement = SQL(_MERGE_INPUT).format(
        width=_INTERVALS[width], code=width, key=SQL("''::bytea") if is_total else SQL("stage.dimensions_key")
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization": metric.organization_id, "metric": metric.pk})
        return [MergeInput(*row) for row in cursor.fetchall()]


def _merge(
    row: MergeInput, *, metric: Metric, width: str, claimed: Sequence[int], raw_from: datetime | None
) -> MemberSetRow:
    added, removed = load_bitmap(row.added), load_bitmap(row.removed)
    newly_added, newly_removed = BitMap(row.newly_added or ()), BitMap(row.newly_removed or ())
    # Who is on both sides: the later operation decides, and only the raw events know which it is.
    contested = (newly_added & removed) | (newly_removed & added)
    added |= newly_added - contested
    removed |= newly_removed - contested
    if contested and (raw_from is None or row.bucket_start >= raw_from):
        last = list_last_operations(
            metric=metric,
            series_id=row.series_id,
            customer_id=row.customer_id,
            width=width,
            bucket_start=row.bucket_start,
            numbers=contested,
            claimed=claimed,
        )
        place_members(added, removed, contested, last)
    return MemberSetRow(row.series_id, width, row.bucket_start, added, removed)


def place_members(added: BitMap, removed: BitMap, numbers: BitMap, last: dict[int, int]) -> None:
    """Put each of the members where its last operation says; those without any are in neither set."""
    added -= numbers
    removed -= numbers
    for number, operation in last.items():
        (added if operation == Operation.ADD else removed).add(number)


def list_last_operations(
    *,
    metric: Metric,
    series_id: int,
    customer_id: int,
    width: str,
    bucket_start: datetime,
    numbers: Iterable[int],
    claimed: Sequence[int] = (),
) -> dict[int, int]:
    """Return each member's last operation in one bucket of one series, from raw events."""
    statement = SQL(_LAST_OPERATIONS).format(
        member=expressions.member(metric), dimensions=expressions.dimensions(metric), width=_INTERVALS[width]
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT dimensions_key FROM metering_series WHERE organization_id = %s AND id = %s",
            [metric.organization_id, series_id],
        )
        key = bytes(cursor.fetchone()[0])
        cursor.execute(
            statement,
            {
                "organization": metric.organization_id,
                "metric": metric.pk,
                "customer": customer_id,
                "start": bucket_start,
                "feeds": list_feed_ids(metric),
                "numbers": list(numbers),
                "key": key,
                "claimed": list(claimed),
            },
        )
        return dict(cursor.fetchall())


def upsert_sets(*, organization_id: int, rows: Sequence[MemberSetRow]) -> None:
    """Store the sets, replacing what the buckets held, and give the months of the days a new version."""
    if not rows:
        return
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE member_set_stage")
        with cursor.copy("COPY member_set_stage FROM STDIN") as copy:
            for row in rows:
                removed = dump_bitmap(row.removed) if row.removed else None
                copy.write_row((row.series_id, row.width, row.bucket_start, dump_bitmap(row.added), removed))
        cursor.execute(_UPSERT, {"organization": organization_id})
        cursor.execute(_MARK_MONTHS, {"organization": organization_id})


def list_month_versions(*, metric: Metric) -> list[tuple[datetime, str]]:
    """Return the starts of the UTC months in which the metric has sets, and the version that each has now."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST_MONTH_VERSIONS, [metric.organization_id, metric.pk])
        return cursor.fetchall()


def load_bitmap(content: Any) -> BitMap:
    return BitMap() if content is None else BitMap.deserialize(bytes(content))


def dump_bitmap(bitmap: BitMap) -> bytes:
    bitmap.run_optimize()
    return bitmap.serialize()


def replace_members(
    *, organization_id: int, series_id: int, width: str, bucket_start: datetime, numbers: BitMap, last: dict[int, int]
) -> None:
    """Put some members of one bucket where their last operations say; the rest of the set stays."""
    names: dict[str, Any] = {
        "organization": organization_id,
        "series": series_id,
        "width": width,
        "start": bucket_start,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SELECT_SET, names)
        row = cursor.fetchone() or (None, None)
        added, removed = load_bitmap(row[0]), load_bitmap(row[1])
        place_members(added, removed, numbers, last)
    create_stage()
    upsert_sets(organization_id=organization_id, rows=[MemberSetRow(series_id, width, bucket_start, added, removed)])
