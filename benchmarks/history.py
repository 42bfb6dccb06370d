"""A year of events, written by the database itself in the order in which they happened, then rolled up as usual.

The rows are what ingest would have stored: batches of 5,000, pending until `metering.services.rollup` has added them.
Only the way in is shorter. Keys ascend, unlike those of the ingest runs, for no read looks at them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from django.db import connection, transaction
from psycopg.sql import SQL, Composable

from benchmarks.report import Measurement
from benchmarks.tenant import Tenant
from benchmarks.workload import PROVIDERS, REGIONS
from metering.services.rollup import RolledUp, roll_up_chunk

YEAR = timedelta(days=365)
BATCH_EVENTS = 5_000
# Events per statement: the rollup works on what is committed while the next piece is written.
PIECE_EVENTS = 250_000

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
       'history-' || lpad(number::text, 10, '0'),
       ((%(batches)s::bigint[])[1 + (number - %(first)s) / %(size)s] << 13) + mod(number, %(size)s),
       %(feed)s,
       (%(customers)s::bigint[])[1 + mod(number * 7919 >> 3, cardinality(%(customers)s::bigint[]))],
       %(start)s::timestamptz + %(step)s::interval * number,
       %(now)s,
       TRUE,
       0,
       {value},
       {member},
       (%(properties)s::jsonb[])[1 + mod(number * 104729 >> 5, cardinality(%(properties)s::jsonb[]))]
FROM generate_series(%(first)s::bigint, %(first)s + %(count)s - 1) AS number
"""


@dataclass(frozen=True, slots=True)
class History:
    """So many events of one metric over the year that ends at `now`. `value` and `member` are SQL over `number`."""

    tenant: Tenant
    event_count: int
    now: datetime
    value: LiteralString = "mod(number * 7919, 100000)::numeric / 100"
    member: LiteralString = "NULL"

    @property
    def start(self) -> datetime:
        return self.now - YEAR


def write_history(history: History) -> Measurement:
    """Write and roll up the whole history, the two at the same time; return how fast the rollup was."""
    rollup = _Rollup(history)
    started = time.perf_counter()
    rollup.start()
    try:
        for first in range(0, history.event_count, PIECE_EVENTS):
            _write_piece(history, first, min(PIECE_EVENTS, history.event_count - first))
    finally:
        rollup.finish()
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
    names = {
        "organization": tenant.organization.pk,
        "feed": tenant.feed_id,
        "size": BATCH_EVENTS,
        "first": first,
        "count": count,
        "now": history.now,
        "start": history.start,
        "step": YEAR / history.event_count,
        "customers": list(tenant.customer_ids.values()),
        "properties": _list_properties(),
    }
    statement: Composable = SQL(_EVENTS).format(value=SQL(history.value), member=SQL(history.member))
    with connection.cursor() as cursor:
        cursor.execute(_BATCHES, names)
        batch_ids = [row[0] for row in cursor.fetchall()]
        cursor.execute(statement, {**names, "batches": batch_ids})


def _list_properties() -> Sequence[str]:
    return [f'{{"provider":"{provider}","region":"{region}"}}' for provider in PROVIDERS for region in REGIONS]


class _Rollup(threading.Thread):
    """The worker's part: rolls up whatever is pending until it is told that nothing more comes."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._organization_id = history.tenant.organization.pk
        self._now = history.now
        self._is_all_written = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            while self._roll_up_chunk() or not self._is_all_written.wait(0.05) or self._roll_up_chunk():
                pass
        except BaseException as error:
            self._failure = error
        finally:
            connection.close()

    def _roll_up_chunk(self) -> bool:
        return roll_up_chunk(organization_id=self._organization_id, now=self._now, rolled=RolledUp())

    def finish(self) -> None:
        """Wait until everything is rolled up."""
        self._is_all_written.set()
        self.join()
        if self._failure is not None:
            raise self._failure
