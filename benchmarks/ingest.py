"""Ingest over HTTP: batch sizes, synchronous and asynchronous, and batches of which a part was sent before."""

from __future__ import annotations

import time

from benchmarks.installation import Installation
from benchmarks.load import Load, Outcome, send
from benchmarks.report import Figure, Measurement, latencies
from benchmarks.tenant import LOOK_SECONDS, Tenant, await_rollup, empty_hot_tables
from metering.services.queue import count_waiting

BATCH_SIZES = (1, 100, 1_000, 5_000)
REPEATED_SHARES = (0.0, 0.5, 1.0)
COMPARED_BATCH_SIZE = 1_000


def measure_batch_size(
    installation: Installation, tenant: Tenant, *, batch_size: int, seconds: float, is_async: bool
) -> Measurement:
    """Store (or accept) for so long, without a worker beside it."""
    empty_hot_tables()
    load = Load(
        port=installation.port, api_key=tenant.api_key, batch_size=batch_size, seconds=seconds, is_async=is_async
    )
    name = f"{'async' if is_async else 'sync'}, batch {batch_size:,}"
    return Measurement("ingest", name, figures_of(send(load)))


def measure_repetitions(
    installation: Installation, tenant: Tenant, *, repeated_share: float, seconds: float
) -> Measurement:
    empty_hot_tables()
    load = Load(
        port=installation.port,
        api_key=tenant.api_key,
        batch_size=COMPARED_BATCH_SIZE,
        seconds=seconds,
        repeated_share=repeated_share,
    )
    outcome = send(load)
    share = outcome.duplicates / (outcome.stored + outcome.duplicates)
    return Measurement("duplicates", f"{share:.0%} duplicates, batch 1,000", figures_of(outcome))


def measure_drain(installation: Installation, tenant: Tenant, *, seconds: float) -> Measurement:
    """Queue events, then start the worker and time until all of them are stored and rolled up."""
    empty_hot_tables()
    load = Load(
        port=installation.port,
        api_key=tenant.api_key,
        batch_size=COMPARED_BATCH_SIZE,
        seconds=seconds,
        is_async=True,
    )
    accepted = send(load).stored
    with installation.running("worker", "beat"):
        before = count_waiting()
        while count_waiting() == before:  # the worker is still starting
            time.sleep(LOOK_SECONDS)
        started = time.perf_counter()
        while count_waiting():
            time.sleep(LOOK_SECONDS)
        await_rollup(tenant)
        took = time.perf_counter() - started
    return Measurement("ingest", "async: stored and rolled up by the worker", {"events/s": round(accepted / took)})


def figures_of(outcome: Outcome) -> dict[str, Figure]:
    return {
        "events/s": round(outcome.events_per_second),
        "requests/s": round(outcome.requests / outcome.seconds),
        **latencies(outcome.latencies_ms),
        "client's core %": round(100 * outcome.client_cpu_seconds / outcome.seconds),
    }
