"""The ceiling: how fast this machine stores prepared rows into the event table, with nothing around it.

Staged COPY: COPY into a temporary table, then INSERT … SELECT … ON CONFLICT DO NOTHING into `metering_event` with all
its indexes, one commit per 1,000 rows. No HTTP, no decoding, no checks, no batch row, no fence. The HTTP runs are
judged by their share of the figure for one connection.
"""

from __future__ import annotations

import os
import threading
import time
from itertools import islice

import psycopg
from django.db import connection
from psycopg.conninfo import make_conninfo

from benchmarks.load import KEY_DIGITS
from benchmarks.report import Measurement, latencies
from benchmarks.tenant import Tenant, empty_hot_tables
from benchmarks.workload import Usage, recent_usages
from metering.domain import OFFSET_BITS

BATCH_SIZE = 1_000

_CREATE_STAGE = "CREATE TEMPORARY TABLE stage (LIKE metering_event) ON COMMIT DELETE ROWS"
_COPY = """
COPY stage (
    organization_id, idempotency_key, "offset", feed_id, customer_id, occurred_at, received_at,
    has_own_time, operation, value, member, properties
) FROM STDIN
"""
_STORE = "INSERT INTO metering_event SELECT * FROM stage ORDER BY idempotency_key ON CONFLICT DO NOTHING"


def measure_ceiling(tenant: Tenant, *, connections: int, batches: int) -> Measurement:
    """Store so many batches over each connection, all prepared before the clock starts."""
    empty_hot_tables()
    start_line = threading.Barrier(connections)
    writers = [_Writer(tenant, number, connections, batches, start_line) for number in range(connections)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = max(writer.ended for writer in writers) - min(writer.started for writer in writers)
    rate = connections * batches * BATCH_SIZE / seconds
    timings = [latency for writer in writers for latency in writer.latencies_ms]
    name = f"staged COPY, {connections} connection{'s' if connections > 1 else ''}"
    return Measurement("ceiling", name, {"events/s": round(rate), **latencies(timings)})


class _Writer(threading.Thread):
    """One connection. Its batches take turns with those of the others in the order of offsets."""

    def __init__(
        self, tenant: Tenant, number: int, writer_count: int, batches: int, start_line: threading.Barrier
    ) -> None:
        super().__init__()
        tails = [_row_tail(usage, tenant) for usage in islice(recent_usages(seed=number), BATCH_SIZE)]
        organization_id = tenant.organization.pk
        self._batches = [
            _encode_batch(number + writer_count * place, organization_id, tails) for place in range(batches)
        ]
        self._conninfo = _conninfo()
        self._start_line = start_line
        self.latencies_ms: list[float] = []
        self.started = self.ended = 0.0

    def run(self) -> None:
        with psycopg.connect(self._conninfo) as own, own.cursor() as cursor:
            cursor.execute(_CREATE_STAGE)
            own.commit()
            self._start_line.wait()
            self.started = self.ended = time.perf_counter()
            for rows in self._batches:
                with cursor.copy(_COPY) as copy:
                    copy.write(rows)
                cursor.execute(_STORE)
                own.commit()
                before, self.ended = self.ended, time.perf_counter()
                self.latencies_ms.append((self.ended - before) * 1000)


def _row_tail(usage: Usage, tenant: Tenant) -> str:
    """Return everything of a row that follows its offset."""
    return (
        f"{tenant.feed_id}\t{tenant.customer_ids[usage.customer]}\t{usage.occurred_at}\t{usage.occurred_at}\t"
        f"t\t0\t{usage.value}\t\\N\t{usage.properties}\n"
    )


def _encode_batch(number: int, organization_id: int, tails: list[str]) -> bytes:
    digits = os.urandom(BATCH_SIZE * KEY_DIGITS // 2).hex()
    base = number << OFFSET_BITS
    rows = [
        f"{organization_id}\t{digits[place * KEY_DIGITS : (place + 1) * KEY_DIGITS]}\t{base + place}\t{tail}"
        for place, tail in enumerate(tails)
    ]
    return "".join(rows).encode()


def _conninfo() -> str:
    parameters = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    return make_conninfo("", **{name: parameters[name] for name in names if parameters.get(name)})
