"""Alerts: how soon a crossing is told after its ingest was answered, and what a thousand open streams cost ingest."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from decimal import Decimal

import msgspec
import psutil

from alerts.services.thresholds import ThresholdDefinition, create_threshold
from benchmarks.ingest import figures_of
from benchmarks.installation import Installation
from benchmarks.listeners import Crowd, open_streams
from benchmarks.load import Connection, Load, LoadFailed, Outcome, send
from benchmarks.paced import PROBE, PacedLoad, probe_event, send_paced
from benchmarks.report import Figure, Measurement, latencies
from benchmarks.tenant import ACTOR, Tenant, await_rollup, create_tenant, empty_hot_tables
from benchmarks.workload import CUSTOMERS
from metering.catalogs import MetricDefinition
from metering.models import Aggregation
from metering.services.metrics import create_metric

PROCESSES = ("web", "worker", "beat", "stream")
EVENTS_PER_SECOND = 5_000
BATCH_SIZE = 100
# Ten probes a second.
PROBE_EVERY = 5
STREAM_COUNT = 1_000
# At 5,000 events a second each of the 16 customers crosses it every six seconds or so.
RECURRING_VALUE = Decimal(1_000_000)
# The worker starts, or the last alerts are on their way.
PATIENCE_SECONDS = 60
# Whose alert shows that the worker is there.
FIRST_CUSTOMER = "first"


def measure_latency(installation: Installation, *, seconds: float) -> tuple[Measurement, int]:
    """Send steadily, and time each probe from its batch's answer to its message. Returns also how many there were."""
    empty_hot_tables()
    tenant = _create_watched_tenant("alert latency")
    with installation.running(*PROCESSES):
        listener = _ProbeListener(installation.plan.stream_port, tenant.api_key)
        _await_first_alert(installation, tenant, listener)
        load = PacedLoad(
            port=installation.port,
            api_key=tenant.api_key,
            seconds=seconds,
            events_per_second=EVENTS_PER_SECOND,
            batch_size=BATCH_SIZE,
            probe_every=PROBE_EVERY,
        )
        outcome = send_paced(load)
        listener.await_all({customer: len(answered) for customer, answered in outcome.answered.items()})
        listener.close()
    waits = [
        max(0.0, told - answered) * 1000
        for customer, answers in outcome.answered.items()
        for answered, told in zip(answers, listener.told[customer], strict=True)
    ]
    figures: dict[str, Figure] = {
        "events/s": round(outcome.events / outcome.seconds),
        "ingest p50 ms": latencies(outcome.latencies_ms)["p50 ms"],
        "alerts": len(waits),
        **latencies(waits),
        "slowest ms": round(max(waits), 2),
    }
    name = f"ingest's answer to stream's message, {seconds:.0f} s"
    return Measurement("alerts", name, figures), len(waits)


def measure_streams(installation: Installation, *, seconds: float) -> tuple[list[Measurement], float]:
    """Ingest as fast as it goes with the worker beside it: without streams, twice with them, and without again.

    Returns the lines, and the throughput with streams as a share of that without.
    """
    without, with_streams, heard_messages, memory = [], [], 0, (0.0, 0.0)
    for is_crowded in (False, True, True, False):
        empty_hot_tables()
        tenant = _create_watched_tenant(f"{'with' if is_crowded else 'without'} streams")
        with installation.running(*PROCESSES):
            first = _ProbeListener(installation.plan.stream_port, tenant.api_key)
            _await_first_alert(installation, tenant, first)
            first.close()
            load = Load(port=installation.port, api_key=tenant.api_key, batch_size=1_000, seconds=seconds)
            if not is_crowded:
                without.append(send(load))
            else:
                before = _stream_memory(installation)
                crowd = Crowd(
                    port=installation.plan.stream_port,
                    api_key=tenant.api_key,
                    count=STREAM_COUNT,
                    customers=CUSTOMERS,
                )
                with open_streams(crowd) as streams:
                    with_streams.append(send(load))
                    memory = (before, _stream_memory(installation))
                assert streams.heard is not None
                heard_messages += streams.heard.messages
            await_rollup(tenant)
    lines = [
        Measurement("streams", "sync, batch 1,000, with rollup, no stream", figures_of(_join(without))),
        Measurement(
            "streams",
            f"the same, {STREAM_COUNT:,} open streams",
            {
                **figures_of(_join(with_streams)),
                "messages/s": round(heard_messages / sum(outcome.seconds for outcome in with_streams)),
                "stream process before, MiB": round(memory[0]),
                "with streams, MiB": round(memory[1]),
            },
        ),
    ]
    return lines, _join(with_streams).events_per_second / _join(without).events_per_second


def _create_watched_tenant(name: str) -> Tenant:
    """Create a tenant whose every probe crosses, and whose customers cross now and then."""
    tenant = create_tenant(name)
    probes = create_metric(
        organization=tenant.organization,
        definition=MetricDefinition(PROBE, Aggregation.COUNT, event_type=PROBE),
        actor=ACTOR,
    )
    for metric, code, value in ((probes, "each", Decimal(1)), (tenant.metric, "million", RECURRING_VALUE)):
        definition = ThresholdDefinition(code=code, value=value, is_recurring=True)
        create_threshold(organization=tenant.organization, metric=metric, definition=definition, actor=ACTOR)
    return tenant


def _join(outcomes: list[Outcome]) -> Outcome:
    """Return runs one after the other as one run."""
    return Outcome(
        seconds=sum(outcome.seconds for outcome in outcomes),
        requests=sum(outcome.requests for outcome in outcomes),
        stored=sum(outcome.stored for outcome in outcomes),
        duplicates=sum(outcome.duplicates for outcome in outcomes),
        latencies_ms=[latency for outcome in outcomes for latency in outcome.latencies_ms],
        client_cpu_seconds=sum(outcome.client_cpu_seconds for outcome in outcomes),
    )


def _stream_memory(installation: Installation) -> float:
    """Return the resident set of the process that serves the streams, MiB."""
    root = psutil.Process(installation.processes["stream"].pid)
    return max(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 2**20


# --- listening ------------------------------------------------------------------------------------------------


class _Told(msgspec.Struct):
    customer: str


class _ProbeListener(threading.Thread):
    """Reads the stream of the probes from now on, and notes when each customer's 1st, 2nd … alert came."""

    def __init__(self, port: int, api_key: str) -> None:
        super().__init__(daemon=True)
        self.told: dict[str, list[float]] = defaultdict(list)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(
            f"GET /v1/alerts/stream?metric={PROBE} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {api_key}\r\n\r\n".encode()
        )
        self._lines = self._socket.makefile("rb")
        status = self._lines.readline()
        if not status.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"The stream answers {status.decode(errors='replace').strip()}.")
        while not self._lines.readline().startswith(b"id:"):  # from here on it misses nothing
            pass
        self.start()

    def run(self) -> None:
        for line in self._lines:
            if line.startswith(b"data: "):
                now = time.monotonic()
                self.told[msgspec.json.decode(line[6:], type=_Told).customer].append(now)

    def await_all(self, counts: dict[str, int]) -> None:
        """Return when every customer has so many alerts. Raises `LoadFailed` if they do not come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(len(self.told[customer]) < count for customer, count in counts.items()):
            if time.monotonic() > deadline:
                told = {customer: len(self.told[customer]) for customer in counts}
                raise LoadFailed(f"Of these alerts {counts} only these came: {told}.")
            time.sleep(0.01)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()


def _await_first_alert(installation: Installation, tenant: Tenant, listener: _ProbeListener) -> None:
    """Cross once, so that worker and stream are known to be there, and have everything imported."""
    connection = Connection(installation.port, tenant.api_key)
    status, answer = connection.post("/v1/events", probe_event(FIRST_CUSTOMER))
    connection.close()
    if status != 200:
        raise LoadFailed(f"status {status}: {answer[:500].decode(errors='replace')}")
    listener.await_all({FIRST_CUSTOMER: 1})
