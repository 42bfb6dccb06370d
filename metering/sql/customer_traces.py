"""What of one customer stands in rollups and member sets: since when, whose members, under which values.

Reads and renames; counts nothing and changes no total. Who renames holds the rollup lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from django.db import connection
from pyroaring import BitMap

from metering.models import Metric
from metering.sql import member_sets

FETCHED_SETS = 200

# When the customer's usage begins: the first day that was rolled up, or the first event.
_EARLIEST = """
SELECT LEAST(
    (
        SELECT min(stored.bucket_start)
        FROM metering_series AS series
        CROSS JOIN LATERAL (
            SELECT bucket_start
            FROM metering_rollup_day
            WHERE organization_id = series.organization_id AND series_id = series.id
            ORDER BY bucket_start
            LIMIT 1
        ) AS stored
        WHERE series.organization_id = %(organization)s
          AND series.customer_id = %(customer)s
          AND series.dimensions_key = ''::bytea
    ),
    (
        SELECT min(occurred_at)
        FROM metering_event
        WHERE organization_id = %(organization)s AND customer_id = %(customer)s
    )
)
"""

# The customer's own sets of whole days, or those of all others. Uses series_once and the sets' primary key.
_MEMBER_SETS = """
SELECT kept.added, kept.removed
FROM metering_series AS series
JOIN metering_member_set AS kept
  ON kept.organization_id = series.organization_id AND kept.series_id = series.id AND kept.width = 'd'
WHERE series.organization_id = %(organization)s
  AND series.metric_id = %(metric)s
  AND series.dimensions_key = ''::bytea
  AND (series.customer_id = %(customer)s) = %(is_own)s
"""

# Uses member_number_once.
_RENAME_MEMBERS = """
UPDATE metering_member
SET member = %(name)s || '-' || number
WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND number = ANY(%(numbers)s) AND number >= 0
"""

# Their own series whose values at some places are the name; no two of them become one, for the new name is new. The key
# is what `metering.sql.roll_up` makes of the values. Uses series_once.
_RENAME_DIMENSIONS = """
UPDATE metering_series AS series
SET dimensions = renamed.dimensions, dimensions_key = sha256(convert_to(renamed.dimensions::text, 'UTF8'))
FROM (
    SELECT organization_id, id, ARRAY(
        SELECT CASE WHEN value = %(old)s AND place = ANY(%(places)s) THEN %(new)s ELSE value END
        FROM unnest(dimensions) WITH ORDINALITY AS part (value, place)
        ORDER BY place
    ) AS dimensions
    FROM metering_series
    WHERE organization_id = %(organization)s
      AND metric_id = %(metric)s
      AND customer_id = %(customer)s
      AND %(old)s = ANY(dimensions)
) AS renamed
WHERE series.organization_id = %(organization)s
  AND series.organization_id = renamed.organization_id
  AND series.id = renamed.id
  AND series.dimensions <> renamed.dimensions
"""


def find_earliest_usage(*, organization_id: int, customer_id: int) -> datetime | None:
    """Return the first day that was rolled up or the first event's time, whichever is earlier; None without usage."""
    with connection.cursor() as cursor:
        cursor.execute(_EARLIEST, {"organization": organization_id, "customer": customer_id})
        found: datetime | None = cursor.fetchone()[0]
    return found


def iterate_member_sets(*, metric: Metric, customer_id: int, is_own: bool) -> Iterator[BitMap]:
    """Yield the members of each day of the customer, or of each day of every other customer."""
    names = {
        "organization": metric.organization_id,
        "metric": metric.pk,
        "customer": customer_id,
        "is_own": is_own,
    }
    with connection.chunked_cursor() as cursor:
        cursor.execute(_MEMBER_SETS, names)
        while rows := cursor.fetchmany(FETCHED_SETS):
            for added, removed in rows:
                yield member_sets.load_bitmap(added) | member_sets.load_bitmap(removed)


def rename_members(*, metric: Metric, numbers: BitMap, name: str) -> None:
    """Call each of the members `name`, a hyphen and its number."""
    with connection.cursor() as cursor:
        cursor.execute(
            _RENAME_MEMBERS,
            {
                "organization": metric.organization_id,
                "metric": metric.pk,
                "name": name,
                "numbers": list(numbers),
            },
        )


def rename_dimension_values(*, metric: Metric, customer_id: int, places: Sequence[int], old: str, new: str) -> None:
    """Write the new value where the customer's series have the old one at one of the places. The first place is 1."""
    with connection.cursor() as cursor:
        cursor.execute(
            _RENAME_DIMENSIONS,
            {
                "organization": metric.organization_id,
                "metric": metric.pk,
                "customer": customer_id,
                "places": list(places),
                "old": old,
                "new": new,
            },
        )
