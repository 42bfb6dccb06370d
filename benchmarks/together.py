"""Ingest and rollup at the same time, sustained: what a busy installation does all day, and how far the worker lags."""

from __future__ import annotations

import threading
import time

from django.db import connection

from benchmarks.ingest import figures_of
from benchmarks.installation import Installation
from benchmarks.load import Load, send
from benchmarks.report import Measurement
from benchmarks.tenant import Tenant, await_rollup, count_pending_events, empty_hot_tables

SAMPLE_SECONDS = 0.5


def measure_together(installation: Installation, tenant: Tenant, *, seconds: float) -> Measurement:
    """Send batches of 1,000 for so long while the worker rolls them up; then time until nothing is pending."""
    empty_hot_tables()
    with installation.running("worker", "beat"):
        _await_worker(installation)
        watch = _PendingWatch(tenant)
        watch.start()
        outcome = send(Load(port=installation.port, api_key=tenant.api_key, batch_size=1_000, seconds=seconds))
        watch.stop()
        lag = await_rollup(tenant)
    figures = figures_of(outcome) | {"most pending events": watch.most_events, "lag after s": round(lag, 2)}
    return Measurement("together", f"sync, batch 1,000, with rollup, {seconds:.0f} s", figures)


def _await_worker(installation: Installation) -> None:
    time.sleep(5)  # it imports everything once; nothing tells that it listens


class _PendingWatch(threading.Thread):
    """Looks now and then how many events wait to be rolled up."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__(daemon=True)
        self.most_events = 0
        self._tenant = tenant
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            self.most_events = max(self.most_events, count_pending_events(self._tenant))
        connection.close()

    def stop(self) -> None:
        self._is_over.set()
        self.join()
