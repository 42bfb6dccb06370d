"""What is due to be sent: which endpoints have something, and taking it with a lease.

Both statements use the partial index `delivery_pending` alone, which holds what is not delivered yet: a few rows,
unless endpoints fail. The first hops from endpoint to endpoint, so it costs a probe for each endpoint with pending
deliveries however many each has.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.db import connection

from alerts.domain import Lane

# One row per endpoint that may be sent to and has something due, the longest waiting first.
_LIST_WAITING = """
WITH RECURSIVE waiting (organization_id, endpoint_id, due_at) AS (
    (
        SELECT organization_id, endpoint_id, next_attempt_at
        FROM alerts_delivery
        WHERE state = 'pending'
        ORDER BY organization_id, endpoint_id, next_attempt_at
        LIMIT 1
    )
    UNION ALL
    SELECT following.organization_id, following.endpoint_id, following.next_attempt_at
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT organization_id, endpoint_id, next_attempt_at
        FROM alerts_delivery
        WHERE state = 'pending' AND (organization_id, endpoint_id) > (waiting.organization_id, waiting.endpoint_id)
        ORDER BY organization_id, endpoint_id, next_attempt_at
        LIMIT 1
    ) AS following
)
SELECT endpoint.id, endpoint.organization_id, endpoint.failing_since IS NOT NULL
FROM waiting
JOIN alerts_webhookendpoint AS endpoint
    ON endpoint.organization_id = waiting.organization_id AND endpoint.id = waiting.endpoint_id
WHERE waiting.due_at <= %(now)s AND endpoint.disabled_at IS NULL
ORDER BY waiting.due_at, endpoint.id
LIMIT %(limit)s
"""

# One row per delivery taken. A lease puts the delivery off until its own end, so that one that is being sent is not
# due; two couriers pass by each other's rows.
_CLAIM = """
WITH slots AS (
    SELECT endpoint_id, slot_count
    FROM unnest(%(endpoints)s::bigint[], %(counts)s::int[]) AS slot (endpoint_id, slot_count)
),
due AS (
    SELECT delivery.id, endpoint.url, endpoint.secret, endpoint.failing_since IS NOT NULL AS is_failing,
           CASE WHEN endpoint.previous_secret_until > %(now)s THEN endpoint.previous_secret END AS previous_secret
    FROM slots
    JOIN alerts_webhookendpoint AS endpoint ON endpoint.id = slots.endpoint_id AND endpoint.disabled_at IS NULL
    CROSS JOIN LATERAL (
        SELECT id
        FROM alerts_delivery
        WHERE organization_id = endpoint.organization_id AND endpoint_id = endpoint.id
          AND state = 'pending' AND next_attempt_at <= %(now)s
        ORDER BY next_attempt_at
        LIMIT slots.slot_count
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS delivery
)
UPDATE alerts_delivery AS delivery
SET leased_until = %(until)s, next_attempt_at = %(until)s
FROM due
WHERE delivery.id = due.id
RETURNING delivery.id, delivery.organization_id, delivery.endpoint_id, due.is_failing, delivery.leased_until,
          delivery.message_id, delivery.payload, due.url, due.secret, due.previous_secret
"""


class ClaimedDelivery(NamedTuple):
    """A delivery that is ours to send until `leased_until`. The secrets are sealed; the previous one may still sign."""

    id: int
    organization_id: int
    endpoint_id: int
    is_failing: bool
    leased_until: datetime
    message_id: str
    payload: dict[str, Any]
    url: str
    secret: bytes
    previous_secret: bytes | None

    @property
    def lane(self) -> Lane:
        return Lane(self.endpoint_id, self.organization_id, self.is_failing)


def list_waiting(*, now: datetime, limit: int) -> list[Lane]:
    with connection.cursor() as cursor:
        cursor.execute(_LIST_WAITING, {"now": now, "limit": limit})
        return [Lane(*row) for row in cursor.fetchall()]


def claim_deliveries(*, slots: Mapping[int, int], now: datetime, until: datetime) -> list[ClaimedDelivery]:
    """Take at most so many due deliveries of each endpoint, oldest first; each is taken by one claim alone."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"endpoints": list(slots), "counts": list(slots.values()), "now": now, "until": until})
        rows = [
            ClaimedDelivery(*row)._replace(payload=msgspec.json.decode(row[6])) for row in sorted(cursor.fetchall())
        ]
    return rows
