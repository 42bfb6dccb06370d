"""The forward listener: how many of the billing-client's records it commits, and how soon it acknowledges them.

Senders are another process on the same machine (`benchmarks.forward_load`), and so is PostgreSQL.
"""

from __future__ import annotations

import time

import msgspec
import psutil
from django.utils import timezone

from benchmarks.forward_load import INSTANCES, ForwardLoad, send_forward
from benchmarks.installation import Installation
from benchmarks.load import LoadFailed
from benchmarks.report import Measurement
from benchmarks.tenant import Tenant, create_tenant, empty_hot_tables
from metering.dialects.weave.services import map_instance
from metering.models import IngestBatch

PART = "forward"
THROUGHPUT = "JSON, 4 connections"
LATENCY = "acknowledged, 5,000 records/s"
PACED_RECORDS_PER_SECOND = 5_000
# The Go client waits for the acknowledgement of each record: so many of them make the pace.
PACED_CONNECTIONS = 50
PATIENCE_SECONDS = 60


def measure_throughput(installation: Installation, tenant: Tenant, *, seconds: float) -> Measurement:
    """Send as fast as the listener reads; the clock stops when the last record is committed."""
    process = psutil.Process(installation.processes["forward"].pid)
    _commit_all(installation, tenant, seconds=1.0)  # its caches and buffers are as large as they get
    before = process.memory_info().rss
    count, took = _commit_all(installation, tenant, seconds=seconds)
    after = process.memory_info().rss
    return Measurement(
        PART,
        THROUGHPUT,
        {
            "records/s": round(count / took),
            "records": count,
            "RSS before MiB": round(before / 2**20, 1),
            "RSS after MiB": round(after / 2**20, 1),
        },
    )


def measure_latency(installation: Installation, *, seconds: float) -> Measurement:
    """Send at a steady pace, each record acknowledged by itself. Begins as every part does: on empty tables."""
    empty_hot_tables()
    load = _load(installation, seconds=seconds, connections=PACED_CONNECTIONS)
    outcome = send_forward(msgspec.structs.replace(load, records_per_second=PACED_RECORDS_PER_SECOND))
    latencies = sorted(outcome.latencies_ms)
    return Measurement(
        PART,
        LATENCY,
        {
            "records/s": round(outcome.records / seconds),
            "p50 ms": round(latencies[len(latencies) // 2], 1),
            "p99 ms": round(latencies[len(latencies) * 99 // 100], 1),
        },
    )


def create_forwarding_tenant() -> Tenant:
    """Create an organization to which the load's instances are mapped."""
    tenant = create_tenant(PART)
    for number in range(INSTANCES):
        map_instance(
            organization=tenant.organization,
            internal_instance_id=str(number),
            customer_external_id=f"instance-{number}",
            actor="benchmark",
        )
    return tenant


def _commit_all(installation: Installation, tenant: Tenant, *, seconds: float) -> tuple[int, float]:
    """Return how many records were sent and after how many seconds all of them were committed."""
    before = _count_committed(tenant)
    outcome = send_forward(_load(installation, seconds=seconds, connections=4))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _count_committed(tenant) - before < outcome.records:
        if time.monotonic() > deadline:
            raise LoadFailed("Not all records that were sent were committed.")
        time.sleep(0.01)
    return outcome.records, time.monotonic() - outcome.started_at


def _count_committed(tenant: Tenant) -> int:
    batches = IngestBatch.objects.for_organization(tenant.organization)
    return sum(batches.values_list("event_count", flat=True))


def _load(installation: Installation, *, seconds: float, connections: int) -> ForwardLoad:
    return ForwardLoad(
        port=installation.plan.forward_port,
        seconds=seconds,
        connections=connections,
        occurred_at=timezone.now().strftime("%Y-%m-%dT%H:%M:%S.123456789Z"),
        prefix=str(time.monotonic_ns()),
    )
