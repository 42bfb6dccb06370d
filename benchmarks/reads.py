"""Reads over HTTP, one after the other on one connection, over the same year with ever more events in it.

Every kind of read is asked about other customers and other ranges in turn, so that no answer is the last one again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import cycle, islice
from urllib.parse import urlencode

import msgspec
from django.db import connection

from benchmarks.history import YEAR, History
from benchmarks.installation import Installation
from benchmarks.load import Connection, LoadFailed
from benchmarks.report import Measurement, Results, latencies
from benchmarks.workload import CUSTOMERS, METRIC, PROVIDERS

REALTIME = "realtime, one customer"
YEAR_BY_DAY = "series: a year by day, 16 customers together"
YEAR_BY_DAY_AND_CUSTOMER = "series: a year by day, for each of 16 customers"
WARM_UP = 8
VARIANTS = 32


@dataclass(frozen=True, slots=True)
class Read:
    """One kind of read: the paths that are asked for in turn."""

    name: str
    paths: Sequence[str]


def list_reads(now: datetime) -> list[Read]:
    """Return the reads over the year that ends at `now`, on metric `METRIC`."""
    year = {"metric": METRIC, "from": moment_text(now - YEAR), "to": moment_text(now)}
    by_day = year | {"granularity": "day"}
    month_by_hour = {**year, "from": moment_text(now - timedelta(days=30)), "granularity": "hour"}
    spans = [{"metric": METRIC, **span} for span in _ragged_ranges(now)]
    customers = [{"customer": customer} for customer in CUSTOMERS]
    providers = [{"filter[provider]": provider} for provider in PROVIDERS]
    return [
        Read(REALTIME, [usage_path("realtime", metric=METRIC, **one) for one in customers]),
        Read("realtime, all customers", [usage_path("realtime", metric=METRIC)]),
        Read(
            "range to the microsecond, one customer",
            [usage_path("", **span, **one) for span, one in zip(spans, cycle(customers), strict=False)],
        ),
        Read("range to the microsecond, all customers", [usage_path("", **span) for span in spans]),
        Read(
            "range to the microsecond, one provider",
            [usage_path("", **span, **one) for span, one in zip(spans, cycle(providers), strict=False)],
        ),
        Read("breakdown: a year by two dimensions", [usage_path("breakdown", group_by=["provider", "region"], **year)]),
        Read("breakdown: a year by customer", [usage_path("breakdown", group_by="customer", **year)]),
        Read(
            "series: 30 days by hour, one customer",
            [usage_path("series", **month_by_hour, **one) for one in customers],
        ),
        Read(YEAR_BY_DAY, [usage_path("series", **by_day)]),
        Read(YEAR_BY_DAY_AND_CUSTOMER, [usage_path("series", group_by="customer", **by_day)]),
        Read("series: a year of month to date", [usage_path("series", mode="month_to_date", **by_day)]),
        Read("series: a year of rolling 30 days", [usage_path("series", mode="rolling_30d", **by_day)]),
    ]


def measure_reads(
    installation: Installation, history: History, reads: Sequence[Read], *, part: str, repeats: int, seconds: float
) -> Iterator[Measurement]:
    """Yield one line per kind of read: so many repeats, or as many as so many seconds allow."""
    http = Connection(installation.port, history.tenant.api_key)
    for read in reads:
        paths = cycle(read.paths)
        for path in islice(paths, WARM_UP):
            fetch(http, path)
        timings = []
        deadline = time.perf_counter() + seconds
        for path in islice(paths, repeats):
            started = time.perf_counter()
            fetch(http, path)
            timings.append((time.perf_counter() - started) * 1000)
            if time.perf_counter() > deadline:
                break
        yield Measurement(part, read.name, latencies(timings))
    http.close()


def compare(results: Results, *, small: str, large: str) -> Iterator[tuple[str, float]]:
    """Yield for each kind of read the median over the large history as a multiple of that over the small one."""
    for line in results.measurements:
        if line.part == large:
            before = results.find(small, line.name)["p50 ms"]
            yield line.name, float(line.figures["p50 ms"]) / float(before)


def check_against_raw(installation: Installation, history: History) -> None:
    """Refuse figures of wrong answers: the year's total over HTTP must be the sum of the raw events."""
    path = usage_path("", metric=METRIC, **{"from": moment_text(history.start), "to": moment_text(history.now)})
    value = fetch_value(installation, history, path)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(value) FROM metering_event "
            "WHERE organization_id = %s AND occurred_at >= %s AND occurred_at < %s",
            [history.tenant.organization.pk, history.start, history.now],
        )
        expected: Decimal = cursor.fetchone()[0]
    if value != expected:
        raise LoadFailed(f"The server answers {value}, the raw events sum up to {expected}.")


def fetch_value(installation: Installation, history: History, path: str) -> Decimal:
    http = Connection(installation.port, history.tenant.api_key)
    value = Decimal(msgspec.json.decode(fetch(http, path), type=_Value).value)
    http.close()
    return value


class _Value(msgspec.Struct):
    value: str


def fetch(http: Connection, path: str) -> bytes:
    status, body = http.get(path)
    if status != 200:
        raise LoadFailed(f"{path}: status {status}: {body[:500].decode(errors='replace')}")
    return body


def _ragged_ranges(now: datetime) -> Iterator[dict[str, str]]:
    """Yield ranges of about 90 days whose edges cut an hour and a minute."""
    for number in range(VARIANTS):
        start = now - YEAR + timedelta(days=7 * number, minutes=17 * number, microseconds=123_457 * number)
        yield {
            "from": moment_text(start),
            "to": moment_text(start + timedelta(days=90, minutes=7, microseconds=987_653)),
        }


def usage_path(kind: str, **query: str | list[str]) -> str:
    """Return the path of a read: `realtime`, `breakdown`, `series`, or nothing for a range."""
    return f"/v1/usage{'/' + kind if kind else ''}?{urlencode(query, doseq=True)}"


def moment_text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
