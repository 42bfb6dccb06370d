"""The outbox of changed usage: written by rollups and voids, claimed by whoever follows usage.

One row per rollup chunk or void; a row is small and short-lived. Several followers would need a claim of their own
each; there is one (alerts).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection

# A stage holds bucket starts; the coarsest bucket it uses is an hour.
_RECORD_STAGE = """
INSERT INTO metering_usage_change (organization_id, id, metric_ids, customer_ids, earliest, latest, is_void)
SELECT %(organization)s, nextval('metering_usage_change_id_seq'),
       array_agg(changed.metric_id), array_agg(changed.customer_id),
       min(changed.earliest), max(changed.latest) + interval '1 hour', FALSE
FROM (
    SELECT stage.metric_id, stage.customer_id,
           min(stage.bucket_start) AS earliest, max(stage.bucket_start) AS latest
    FROM rollup_stage AS stage
    GROUP BY stage.metric_id, stage.customer_id
) AS changed
HAVING count(*) > 0
"""

_RECORD_VOID = """
INSERT INTO metering_usage_change (organization_id, id, metric_ids, customer_ids, earliest, latest, is_void)
VALUES (%(organization)s, nextval('metering_usage_change_id_seq'), %(metrics)s, %(customers)s,
        %(earliest)s, %(latest)s, TRUE)
"""

_CLAIM = """
DELETE FROM metering_usage_change
WHERE organization_id = %(organization)s
  AND id IN (
    SELECT id FROM metering_usage_change
    WHERE organization_id = %(organization)s
    ORDER BY id
    LIMIT %(limit)s
  )
RETURNING metric_ids, customer_ids, earliest, latest, is_void
"""


class ChangedUsage(NamedTuple):
    """Entry n of the two lists is one customer's metric; the changed events lie in `[earliest, latest)`."""

    metric_ids: list[int]
    customer_ids: list[int]
    earliest: datetime
    latest: datetime
    is_void: bool


def record_stage(*, organization_id: int) -> None:
    """Record what this transaction's rollup stage changes."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_STAGE, {"organization": organization_id})


def record_void(*, organization_id: int, metric_ids: Sequence[int], customer_id: int, occurred_at: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            _RECORD_VOID,
            {
                "organization": organization_id,
                "metrics": list(metric_ids),
                "customers": [customer_id] * len(metric_ids),
                "earliest": occurred_at,
                "latest": occurred_at + timedelta(microseconds=1),
            },
        )


def claim_changes(*, organization_id: int, limit: int) -> list[ChangedUsage]:
    """Take the oldest changes away; they come back if the current transaction does not commit."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"organization": organization_id, "limit": limit})
        return [ChangedUsage(*row) for row in cursor.fetchall()]
