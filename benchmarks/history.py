"""A year of events, written by the database itself in the order in which they happened, then rolled up as usual.

The rows are what ingest would have stored: batches of up to 5,000 events, pending until `metering.services.rollup` has
added them. Only the way in is shorter. Keys ascend, unlike those of the ingest runs, for no read looks at them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.db import connection, transaction
from psycopg.sql import SQL, Composable

from benchmarks.report import Measurement
from benchmarks.tenant import Tenant
from benchmarks.workload import PROVIDERS, REGIONS
from metering.services.rollup import roll_up_organization

YEAR = timedelta(days=365)
BATCH_EVENTS = 5_000
# A large history and a small one are rolled up as often, so that their rollups lie alike on disk: in the order of time,
# as live ones do.
PIECES = 200

_BATCHES = """
INSERT INTO metering_ingestbatch (organization_id, id, state, event_count, feed_ids, received_at)
SELECT %(organization)s, nextval('metering_ingestbatch_id_seq'), 0, %(size)s, ARRAY[%(feed)s]::bigint[], %(now)s
FROM generate_series(1, %(count)s / %(size)s)
RETURNING id
"""

# One row per number: evenly over time; customers and dimensions in an order without a pattern that a read could meet.
_EVENTS = """
INSERT INTO metering_event (
    organization_id, idempotency_key, "offset", feed_id, customer_id, occurred_at, received_at,
    has_own_time, operation, value, member, properties
)
SELECT %(organization)s,
       %(type)s || '-' || lpad(number::text, 10, '0'),
       ((%(batches)s::bigint[])[1 + (number - %(first)s) / %(size)s] << 13) + mod(number, %(size)s),
       %(feed)s,
       (%(customers)s::bigint[])[1 + mod(number * 7919 >> 3, cardinality(%(customers)s::bigint[]))],
       %(start)s::timestamptz + %(step)s::interval * number,
       %(now)s,
       TRUE,
       0,
       {value},
       NULL,
       (%(properties)s::jsonb[])[1 + mod(number * 104729 >> 5, cardinality(%(properties)s::jsonb[]))]
           || {own_properties}
FROM generate_series(%(first)s::bigint, %(first)s + %(count)s - 1) AS number
"""


@dataclass(frozen=True, slots=True)
class History:
    """So many events of one metric over the year that ends at `now`.

    `value`, and the properties that each event has of its own, are SQL over `number`; `properties` go round.
    """

    tenant: Tenant
    event_count: int
    now: datetime
    value: LiteralString = "mod(number * 7919, 100000)::numeric / 100"
    own_properties: LiteralString = "'{}'::jsonb"
    properties: Sequence[str] = tuple(
        f'{{"provider":"{provider}","region":"{region}"}}' for provider in PROVIDERS for region in REGIONS
    )

    @property
    def start(self) -> datetime:
        return self.now - YEAR


def write_history(history: History) -> Measurement:
    """Write the history piece by piece, each rolled up while the next is written; return how fast that was."""
    started = time.perf_counter()
    piece = math.ceil(history.event_count / PIECES / BATCH_EVENTS) * BATCH_EVENTS
    assert history.event_count % piece == 0  # every batch is full
    with ThreadPoolExecutor(max_workers=1) as worker:
        rollups: deque[Future[None]] = deque()
        for first in range(0, history.event_count, piece):
            _write_piece(history, first, piece)
            if rollups:
                rollups.popleft().result()
            rollups.append(worker.submit(_roll_up, history))
        rollups.pop().result()
    took = time.perf_counter() - started
    with connection.cursor() as cursor:
        # What autovacuum would do within minutes: statistics and visibility maps.
        cursor.execute("VACUUM (ANALYZE) metering_event, metering_series, metering_ingestbatch")
        cursor.execute("VACUUM (ANALYZE) metering_rollup_minute, metering_rollup_hour, metering_rollup_day")
        cursor.execute("VACUUM (ANALYZE) metering_member, metering_member_set")
    return Measurement(
        "history",
        f"write and roll up {history.event_count:,} events",
        {"events/s": round(history.event_count / took), "seconds": round(took, 1)},
    )


@transaction.atomic
def _write_piece(history: History, first: int, count: int) -> None:
    tenant = history.tenant
    names: dict[str, Any] = {
        "organization": tenant.organization.pk,
        "feed": tenant.feed_id,
        "size": BATCH_EVENTS,
        "first": first,
        "count": count,
        "now": history.now,
        "start": history.start,
        "step": YEAR / history.event_count,
        "customers": list(tenant.customer_ids.values()),
        "properties": list(history.properties),
        "type": tenant.metric.event_type,
    }
    statement: Composable = SQL(_EVENTS).format(value=SQL(history.value), own_properties=SQL(history.own_properties))
    with connection.cursor() as cursor:
        cursor.execute(_BATCHES, names)
        batch_ids = [row[0] for row in cursor.fetchall()]
        cursor.execute(statement, {**names, "batches": batch_ids})


def _roll_up(history: History) -> None:
    """Do the worker's part, in a thread of its own."""
    try:
        roll_up_organization(organization_id=history.tenant.organization.pk, now=history.now)
    finally:
        connection.close()
