"""The parts in their order, how long each takes, and what is required of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks import alerts, cleanup, forward, ingest, reads, reports
from benchmarks.ceiling import measure_ceiling
from benchmarks.history import History, write_history
from benchmarks.installation import Installation
from benchmarks.invoices import measure_invoices
from benchmarks.machine import describe_durability, describe_machine
from benchmarks.memory import MemoryWatch
from benchmarks.middleware import OVERHEAD, measure_middleware
from benchmarks.report import Results
from benchmarks.tenant import Tenant, create_tenant, empty_hot_tables
from benchmarks.together import measure_together
from usage_reports.launchdarkly.endpoints import ENDPOINTS

# The promises. A share is of the staged-COPY ceiling, measured in the same run.
INGEST_SHARE = 0.5
TOGETHER_SHARE = 0.3
REALTIME_P50_MS, REALTIME_P99_MS = 5.0, 25.0
YEAR_BY_DAY_P50_MS = 50.0
GROWTH_FACTOR = 1.5
# Of the billing-client's records, committed; and from the sending of one to its acknowledgement.
FORWARD_RECORDS_PER_SECOND = 30_000
FORWARD_ACK_P99_MS = 50.0
FORWARD_GROWTH_MIB = 32.0
# Ingest at half speed while a million old requests are deleted: its slowest answer.
CLEANUP_SLOWEST_MS = 1_000.0
# What the client's middleware adds to a request, at p50.
MIDDLEWARE_MICROSECONDS = 100.0
# From the ingest's answer to the stream's message, under 5,000 events a second.
ALERT_P50_MS, ALERT_P99_MS = 300.0, 1_000.0
ALERT_SAMPLES = 200
# Of the ingest without open streams, with a thousand.
STREAMS_SHARE = 0.8

# Ten thousand customers, and by how much a worker's memory may grow once a part of them is done.
INVOICES_SECONDS = 60.0
INVOICES_GROWTH_MIB = 48.0
SPEND_P50_MS = 20.0

# A year by day in three groupings, of every endpoint.
REPORT_P50_MS, REPORT_P99_MS = 100.0, 400.0
# Of the first answer, from a tenth of the members.
REPORT_GROWTH = 3.0

CEILING = "staged COPY, 1 connection"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: seconds per run, events of the two histories, members."""

    ceiling_batches: int = 250
    ingest_seconds: float = 2.5
    together_seconds: float = 60.0
    forward_seconds: float = 6.0
    cleanup_events: int = 1_000_000
    cleanup_seconds: float = 45.0
    middleware_requests: int = 10_000
    alert_seconds: float = 22.0
    streams_seconds: float = 4.0
    invoice_customers: int = 10_000
    spend_requests: int = 200
    small_history: int = 1_000_000
    large_history: int = 10_000_000
    member_count: int = 1_000_000
    read_repeats: int = 200
    read_seconds: float = 1.2
    report_seconds: float = 0.5


FULL = Scale()
QUICK = Scale(
    ceiling_batches=60,
    ingest_seconds=2.0,
    together_seconds=10.0,
    forward_seconds=3.0,
    cleanup_events=200_000,
    cleanup_seconds=20.0,
    middleware_requests=2_000,
    alert_seconds=21.0,
    streams_seconds=2.0,
    invoice_customers=1_000,
    spend_requests=50,
    small_history=100_000,
    large_history=1_000_000,
    member_count=200_000,
    read_repeats=50,
    read_seconds=1.0,
    report_seconds=0.5,
)


def measure(installation: Installation, parts: frozenset[str], *, is_quick: bool, now: datetime) -> Results:
    """Measure these parts, the ceiling whenever something is compared to it. Prints every line as it is known."""
    scale = QUICK if is_quick else FULL
    started = time.monotonic()
    results = Results(
        date=now.isoformat(timespec="seconds"),
        machine=describe_machine(installation.plan.data_dir),
        durability=describe_durability(),
        is_quick=is_quick,
    )
    watch = MemoryWatch(installation)
    watch.start()
    if parts & {"ingest", "together"}:
        _measure_writes(installation, parts, scale, results)
    if "forward" in parts:
        _measure_forward(installation, scale, results)
    if "cleanup" in parts:
        _measure_cleanup(installation, scale, results, now)
    if "middleware" in parts:
        _measure_middleware(installation, scale, results)
    if "alerts" in parts:
        _measure_alerts(installation, scale, results)
    if "invoices" in parts:
        _measure_invoices(installation, scale, results, now)
    if parts & {"reads", "reports"}:
        empty_hot_tables()
    if "reads" in parts:
        _measure_reads(installation, scale, results, now)
    if "reports" in parts:
        _measure_reports(installation, scale, results, now)
    for line in watch.stop():
        results.add(line)
    results.seconds = round(time.monotonic() - started, 1)
    return results


def _measure_writes(installation: Installation, parts: frozenset[str], scale: Scale, results: Results) -> None:
    tenant = create_tenant("ingest")
    for connections in (1, 2):
        results.add(measure_ceiling(tenant, connections=connections, batches=scale.ceiling_batches))
    with installation.running("web"):
        if "ingest" in parts:
            _measure_ingest(installation, tenant, scale, results)
        if "together" in parts:
            line = measure_together(installation, tenant, seconds=scale.together_seconds)
            results.add(line)
            results.require_share("ingest and rollup together", line, of=CEILING, at_least=TOGETHER_SHARE)


def _measure_ingest(installation: Installation, tenant: Tenant, scale: Scale, results: Results) -> None:
    for is_async in (False, True):
        for batch_size in ingest.BATCH_SIZES:
            line = ingest.measure_batch_size(
                installation, tenant, batch_size=batch_size, seconds=scale.ingest_seconds, is_async=is_async
            )
            results.add(line)
            if batch_size == ingest.COMPARED_BATCH_SIZE and not is_async:
                results.require_share("ingest, sync, batch 1,000", line, of=CEILING, at_least=INGEST_SHARE)
    results.add(ingest.measure_drain(installation, tenant, seconds=scale.ingest_seconds))
    for share in ingest.REPEATED_SHARES:
        results.add(
            ingest.measure_repetitions(installation, tenant, repeated_share=share, seconds=scale.ingest_seconds)
        )


def _measure_forward(installation: Installation, scale: Scale, results: Results) -> None:
    """Without the worker: what is timed is the commit, and rolling up has a part of its own."""
    tenant = forward.create_forwarding_tenant()
    with installation.running("forward"):
        throughput = forward.measure_throughput(installation, tenant, seconds=scale.forward_seconds)
        results.add(throughput)
        latency = forward.measure_latency(installation, seconds=scale.forward_seconds)
        results.add(latency)
    figures = throughput.figures
    growth = float(figures["RSS after MiB"]) - float(figures["RSS before MiB"])
    results.require("forwarded records/s, committed", figures["records/s"], at_least=FORWARD_RECORDS_PER_SECOND)
    results.require("memory that forwarding grew by, MiB", growth, at_most=FORWARD_GROWTH_MIB)
    results.require(
        "forwarded record to acknowledgement, p99, ms", latency.figures["p99 ms"], at_most=FORWARD_ACK_P99_MS
    )


def _measure_cleanup(installation: Installation, scale: Scale, results: Results, now: datetime) -> None:
    lines, slowest_ms = cleanup.measure_cleanup(
        installation, event_count=scale.cleanup_events, seconds=scale.cleanup_seconds, now=now
    )
    for line in lines:
        results.add(line)
    results.require("slowest ingest answer during the cleanup, ms", slowest_ms, at_most=CLEANUP_SLOWEST_MS)


def _measure_middleware(installation: Installation, scale: Scale, results: Results) -> None:
    tenant = create_tenant("middleware")
    with installation.running("web"):
        for line in measure_middleware(installation, tenant, request_count=scale.middleware_requests):
            results.add(line)
            results.require(
                f"middleware, {line.name}: overhead p50, µs", line.figures[OVERHEAD], at_most=MIDDLEWARE_MICROSECONDS
            )


def _measure_alerts(installation: Installation, scale: Scale, results: Results) -> None:
    line, sample_count = alerts.measure_latency(installation, seconds=scale.alert_seconds)
    results.add(line)
    results.require("alerts timed", sample_count, at_least=ALERT_SAMPLES)
    results.require("ingest's answer to alert, p50, ms", line.figures["p50 ms"], at_most=ALERT_P50_MS)
    results.require("ingest's answer to alert, p99, ms", line.figures["p99 ms"], at_most=ALERT_P99_MS)
    lines, share = alerts.measure_streams(installation, seconds=scale.streams_seconds)
    for line in lines:
        results.add(line)
    results.require(
        f"ingest with {alerts.STREAM_COUNT:,} open streams: share of that without", share, at_least=STREAMS_SHARE
    )


def _measure_invoices(installation: Installation, scale: Scale, results: Results, now: datetime) -> None:
    lines, seconds, growth_mib, spend_ms = measure_invoices(
        installation, customer_count=scale.invoice_customers, spend_count=scale.spend_requests, now=now
    )
    for line in lines:
        results.add(line)
    results.require(f"invoicing {scale.invoice_customers:,} customers, s", seconds, at_most=INVOICES_SECONDS)
    results.require("memory that an invoice worker grew by, MiB", growth_mib, at_most=INVOICES_GROWTH_MIB)
    results.require("current spend, p50, ms", spend_ms, at_most=SPEND_P50_MS)


def _measure_reads(installation: Installation, scale: Scale, results: Results, now: datetime) -> None:
    """Read a small history, then a larger one beside it: the smaller has every advantage."""
    small, large = (f"reads at {count:,} events" for count in (scale.small_history, scale.large_history))
    for part, event_count in ((small, scale.small_history), (large, scale.large_history)):
        history = History(create_tenant(part), event_count, now)
        results.add(write_history(history))
        with installation.running("web"):
            _read(installation, history, reads.list_reads(now), part, scale, results)
            reads.check_against_raw(installation, history)
    realtime = results.find(large, reads.REALTIME)
    results.require("realtime p50, ms", realtime["p50 ms"], at_most=REALTIME_P50_MS)
    results.require("realtime p99, ms", realtime["p99 ms"], at_most=REALTIME_P99_MS)
    for name in (reads.YEAR_BY_DAY, reads.YEAR_BY_DAY_AND_CUSTOMER):
        results.require(f"{name}, p50, ms", results.find(large, name)["p50 ms"], at_most=YEAR_BY_DAY_P50_MS)
    for name, factor in reads.compare(results, small=small, large=large):
        results.require(f"{name}: {large[9:]} to {small[9:]}", factor, at_most=GROWTH_FACTOR)


def _measure_reports(installation: Installation, scale: Scale, results: Results, now: datetime) -> None:
    """Ask for reports over few members, then over ten times as many, beside whatever history is there already."""
    few, many = (f"reports over {count:,} members" for count in (scale.member_count // 10, scale.member_count))
    for part, member_count in ((few, scale.member_count // 10), (many, scale.member_count)):
        tenant = create_tenant(part)
        contexts, *others = reports.list_histories(tenant, member_count=member_count, now=now)
        results.add(write_history(contexts))
        endpoints = reports.list_distinct_endpoints()
        if part == many:
            for history in others:
                write_history(history)
            endpoints = list(ENDPOINTS)
        with installation.running("web"):
            if part == many:
                _read(installation, contexts, reports.list_distinct_reads(now), "distinct", scale, results)
                reports.check_against_raw(installation, contexts)
            for line in reports.measure_endpoints(
                installation, tenant, endpoints, part=part, now=now, seconds=scale.report_seconds
            ):
                results.add(line)
    of_many = [line.figures for line in results.measurements if line.part == many]
    results.require("slowest report, p50, ms", max(row["p50 ms"] for row in of_many), at_most=REPORT_P50_MS)
    results.require("slowest report, p99, ms", max(row["p99 ms"] for row in of_many), at_most=REPORT_P99_MS)
    for endpoint in reports.list_distinct_endpoints():
        before, after = (results.find(part, endpoint.path)[reports.FIRST] for part in (few, many))
        results.require(
            f"{endpoint.path}, asked first: ten times the members", float(after) / float(before), at_most=REPORT_GROWTH
        )


def _read(
    installation: Installation,
    history: History,
    asked: Sequence[reads.Read],
    part: str,
    scale: Scale,
    results: Results,
) -> None:
    for line in reads.measure_reads(
        installation, history, asked, part=part, repeats=scale.read_repeats, seconds=scale.read_seconds
    ):
        results.add(line)
