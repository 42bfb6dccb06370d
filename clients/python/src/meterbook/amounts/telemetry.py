"""The Go client's Prometheus metrics, counted for the whole process.

Counting needs no package. Where `prometheus-client` is installed, `register_metrics` shows the counts to a registry.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

METHOD = "Billing.AddAmounts"
# Seconds; the buckets that Prometheus' own clients begin with.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Outcome(StrEnum):
    """What became of an amount. Unlike the Go client's, `success` means acknowledged, not handed on."""

    SUCCESS = "success"
    RETRYING = "retrying"
    STOPPING = "stopping"
    BUFFER_FULL = "buffer_full"


@dataclass(frozen=True, slots=True)
class Counts:
    """A copy of the counts: events and amounts by (outcome, amount type), durations of calls by status code."""

    events: Mapping[tuple[str, str], int]
    amounts: Mapping[tuple[str, str], int]
    durations: Mapping[str, Durations]


@dataclass(slots=True)
class Durations:
    """How long calls took: how many fell into each bucket, beyond the last too, and the seconds of all together."""

    in_bucket: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.in_bucket[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def copy(self) -> Durations:
        return Durations(list(self.in_bucket), self.seconds)


class _Telemetry:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[tuple[str, str]] = Counter()
        self._amounts: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, Durations] = {}

    def count(self, outcome: Outcome, amounts: Mapping[str, int]) -> None:
        """Count an event's amounts; a zero is an event too."""
        with self._lock:
            for amount_type, value in amounts.items():
                self._events[outcome.value, amount_type] += 1
                self._amounts[outcome.value, amount_type] += value

    def time(self, status_code: str, seconds: float) -> None:
        with self._lock:
            self._durations.setdefault(status_code, Durations()).add(seconds)

    def read(self) -> Counts:
        with self._lock:
            durations = {status_code: found.copy() for status_code, found in self._durations.items()}
            return Counts(dict(self._events), dict(self._amounts), durations)

    def renew_lock(self) -> None:
        self._lock = threading.Lock()


telemetry = _Telemetry()


def read_counts() -> Counts:
    return telemetry.read()


def register_metrics(registry: CollectorRegistry | None = None) -> bool:
    """Show the counts in the registry (default: the process's own). False when `prometheus-client` is not installed.

    Raises `ValueError` when that registry shows them already.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return False
    (registry or REGISTRY).register(_Collector())
    return True


class _Collector:
    """Turns the counts into Prometheus' families whenever a registry is read."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        counts = telemetry.read()
        duration = HistogramMetricFamily(
            "billing_client_request_duration_seconds",
            "How long calls that add amounts took.",
            labels=("method", "status_code"),
        )
        for status_code, found in counts.durations.items():
            duration.add_metric((METHOD, status_code), list(_cumulative(found.in_bucket)), found.seconds)
        yield duration
        families = (
            ("billing_client_events", "Amounts that were added, by type and what became of them.", counts.events),
            ("billing_client_amounts", "The sum of those amounts.", counts.amounts),
        )
        for name, told, values in families:
            family = CounterMetricFamily(name, told, labels=("status", "amount_type"))
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family


def _cumulative(in_bucket: list[int]) -> Iterator[tuple[str, int]]:
    """Yield each bucket's upper edge with the count of all up to it."""
    total = 0
    for edge, count in zip([*map(str, BUCKETS), "+Inf"], in_bucket, strict=True):
        total += count
        yield edge, total
