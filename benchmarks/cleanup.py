"""Letting go of a million old requests while events keep coming at half of what the machine takes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
from django.db import connection

from benchmarks.history import History, write_history
from benchmarks.installation import Installation
from benchmarks.load import Connection, Load, LoadFailed, send
from benchmarks.paced import PROBE, PacedLoad, PacedOutcome, send_paced
from benchmarks.report import Figure, Measurement, latencies
from benchmarks.tenant import ACTOR, Tenant, create_tenant, empty_hot_tables
from metering.catalogs import MetricDefinition
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.services.settings import change_settings
from metering.feeds import list_feed_ids
from metering.models import Aggregation, Event
from metering.services.metrics import create_metric

BATCH_EVENTS = 1_000
FULL_SPEED_SECONDS = 4.0
ALONE_SECONDS = 5.0
# The load is under way when the cleanup begins, and still when it ends.
LEAD_SECONDS = 2.0
LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 240.0

REQUESTS = MetricDefinition(
    code="requests",
    aggregation=Aggregation.SUM,
    event_type=EVENT_TYPE,
    dimensions=tuple({"key": key, "values": None, "strict": False} for key in ("provider", "region")),
)


def measure_cleanup(
    installation: Installation, *, event_count: int, seconds: float, now: datetime
) -> tuple[list[Measurement], float]:
    """Return the lines, and how long the slowest ingest request took (ms).

    Raises `LoadFailed` if a total changed, if anything old was left, or if the load ended before the cleanup.
    """
    empty_hot_tables()
    tenant = create_tenant("cleanup")
    create_metric(organization=tenant.organization, definition=MetricDefinition(PROBE, Aggregation.COUNT), actor=ACTOR)
    # The totals of the whole year are compared.
    change_settings(
        organization=tenant.organization, actor=ACTOR, changes={"usage_aggregate_retention_days": 36_500}, now=now
    )
    requests = create_metric(organization=tenant.organization, definition=REQUESTS, actor=ACTOR)
    gateway = replace(tenant, metric=requests, feed_id=list_feed_ids(requests)[0])
    # All of it older than a day, and known for as long.
    written = write_history(History(gateway, event_count, now - timedelta(days=2)))
    with installation.running("web", "worker", "slow-worker"):
        full = send(
            Load(port=installation.port, api_key=tenant.api_key, batch_size=BATCH_EVENTS, seconds=FULL_SPEED_SECONDS)
        )
        before = _read_totals(installation, gateway, now)
        load = PacedLoad(
            port=installation.port,
            api_key=tenant.api_key,
            seconds=ALONE_SECONDS,
            events_per_second=round(full.events_per_second / 2),
            batch_size=BATCH_EVENTS,
            probe_every=1_000_000,
        )
        alone = send_paced(load)
        cleaner = _Cleaner(installation, gateway)
        cleaner.start()
        load.seconds = seconds
        outcome = send_paced(load)
        load_ended = time.monotonic()
        cleaner.join()
        after = _read_totals(installation, gateway, now)
    if cleaner.failure is not None:
        raise LoadFailed(f"The cleanup failed: {cleaner.failure}") from cleaner.failure
    if after != before or Event.objects.for_organization(tenant.organization).filter(feed=gateway.feed_id).exists():
        raise LoadFailed(f"The totals were {before} and are {after}, or old requests were left.")
    if cleaner.ended > load_ended:
        raise LoadFailed(f"The cleanup took {cleaner.seconds:.0f} s, longer than the load beside it.")
    name = f"ingest at half speed while {event_count:,} requests are deleted"
    figures = {
        **_figures_of(outcome),
        "cleanup s": round(cleaner.seconds, 1),
        "rows deleted/s": round(event_count / cleaner.seconds),
    }
    lines = [
        Measurement("cleanup", written.name, written.figures),
        Measurement("cleanup", "ingest at half speed", _figures_of(alone)),
        Measurement("cleanup", name, figures),
    ]
    return lines, max(outcome.latencies_ms)


def _figures_of(outcome: PacedOutcome) -> dict[str, Figure]:
    return {
        "events/s": round(outcome.events / outcome.seconds),
        **latencies(outcome.latencies_ms),
        "slowest ms": round(max(outcome.latencies_ms), 1),
    }


class _Cleaner(threading.Thread):
    """Asks for the cleanup as the CLI does, and waits until the last row is gone."""

    def __init__(self, installation: Installation, tenant: Tenant) -> None:
        super().__init__(daemon=True)
        self._installation, self._tenant = installation, tenant
        self.seconds = self.ended = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            time.sleep(LEAD_SECONDS)
            started = time.monotonic()
            self._clean_up()
            self.ended = time.monotonic()
            self.seconds = self.ended - started
        except BaseException as error:
            self.failure = error
        finally:
            connection.close()

    def _clean_up(self) -> None:
        client = Connection(self._installation.port, self._tenant.api_key)
        status, body = client.post("/admin/analytics/cleanup", b'{"older_than":"1d"}')
        client.close()
        if status not in {200, 202}:
            raise LoadFailed(f"status {status}: {body[:500].decode(errors='replace')}")
        deadline = time.monotonic() + PATIENCE_SECONDS
        old = Event.objects.for_organization(self._tenant.organization).filter(feed=self._tenant.feed_id)
        while old.exists():
            if time.monotonic() > deadline:
                raise LoadFailed("The worker does not end what the request left.")
            time.sleep(LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class _Totals:
    year: str
    by_month: tuple[str, ...]


def _read_totals(installation: Installation, tenant: Tenant, now: datetime) -> _Totals:
    """Return the total of the year and of each month, over HTTP."""
    client = Connection(installation.port, tenant.api_key)
    start, end = f"{now - timedelta(days=380):%Y-%m-%dT00:00:00Z}", f"{now - timedelta(days=1):%Y-%m-%dT00:00:00Z}"
    query = f"metric={tenant.metric.code}&from={start}&to={end}"
    answers = []
    for path in (f"/v1/usage?{query}", f"/v1/usage/series?{query}&granularity=month"):
        status, body = client.get(path)
        if status != 200:
            raise LoadFailed(f"status {status}: {body[:500].decode(errors='replace')}")
        answers.append(msgspec.json.decode(body))
    client.close()
    total, series = answers
    return _Totals(str(total["value"]), tuple(str(point) for line in series["series"] for point in line["points"]))
