"""Invoicing ten thousand customers with graduated prices over five metrics, and asking for one customer's spend."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
from django.db import connection
from django.db.models import Count, Sum

from accounts.services import ensure_customers
from benchmarks.installation import Installation
from benchmarks.load import Connection, LoadFailed
from benchmarks.report import Measurement, latencies
from benchmarks.tenant import ACTOR, Tenant, create_tenant, empty_hot_tables
from billing.domain.prices import Price, PriceModel, Tier
from billing.models import Invoice, InvoiceLine, InvoiceState, Subscription, SubscriptionPhase
from billing.queries.plans import find_current_version
from billing.services.plans import PriceDefinition, VersionDefinition, create_plan
from billing.services.settings import update_settings
from metering.catalogs import MetricDefinition
from metering.incoming import IncomingEvent
from metering.models import Aggregation
from metering.services.ingest import ingest_events
from metering.services.metrics import create_metric
from metering.services.rollup import roll_up_organization

PART = "invoices"
METRICS = tuple(f"m{number}" for number in range(5))
EVENTS_PER_METRIC = 6
BATCH_EVENTS = 5_000
WORKERS = 2
SAMPLE_SECONDS = 0.5
# Half of the customers are asked in the current period, which has events of its own.
SPEND_METRIC_EVENTS = 3
MANAGE = Path(__file__).parent.parent / "manage.py"


@dataclass(slots=True)
class Books:
    """What was used, kept by the benchmark itself: quantity by customer and metric, of the period that is invoiced."""

    tenant: Tenant
    used: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def expected_minor(self, customer: str) -> int:
        """Price by hand: 100 units at 3, 900 at 2, the rest at 1; a fee of 500."""
        total = 500
        for metric in METRICS:
            quantity = self.used[customer, metric]
            total += 3 * min(quantity, 100) + 2 * min(max(quantity - 100, 0), 900) + max(quantity - 1000, 0)
        return total


def measure_invoices(
    installation: Installation, *, customer_count: int, spend_count: int, now: datetime
) -> tuple[list[Measurement], float, float, float]:
    """Return the lines; the seconds of the run; by how much a worker's memory grew after a fifth of it (MiB); and the
    p50 of a spend (ms).

    Raises `LoadFailed` if an invoice is missing, doubled or wrong, or if the numbers have a gap.
    """
    empty_hot_tables()
    books = _set_up(customer_count, now)
    seconds, peaks, growth = _run(books.tenant)
    _check(books, customer_count)
    again, _, _ = _run(books.tenant)
    run = Measurement(
        PART,
        f"{customer_count:,} customers, {len(METRICS)} graduated metrics, {WORKERS} workers",
        {
            "seconds": round(seconds, 1),
            "invoices/s": round(customer_count / seconds),
            "worker PSS MiB": round(peaks),
            "growth MiB": round(growth, 1),
            "again s": round(again, 1),
        },
    )
    with installation.running("web"):
        times = list(_ask_spend(installation, books, spend_count))
    spend = Measurement(PART, "current spend of one customer", latencies(times))
    return [run, spend], seconds, growth, float(spend.figures["p50 ms"])


def _set_up(customer_count: int, now: datetime) -> Books:
    tenant = create_tenant("invoices")
    organization = tenant.organization
    for code in METRICS:
        create_metric(organization=organization, definition=MetricDefinition(code, Aggregation.SUM), actor=ACTOR)
    tiers = (Tier(Decimal(100), Decimal(3)), Tier(Decimal(1000), Decimal(2)), Tier(None, Decimal(1)))
    prices = [PriceDefinition(Price(PriceModel.FLAT, "", Decimal(500)))]
    prices += [PriceDefinition(Price(PriceModel.GRADUATED, "", tiers=tiers), code) for code in METRICS]
    plan = create_plan(
        organization=organization,
        code="pro",
        name="Pro",
        definition=VersionDefinition("USD", prices),
        actor=ACTOR,
        now=now,
    )
    update_settings(organization=organization, changes={"grace_hours": 0}, actor=ACTOR)
    this_month = datetime(now.year, now.month, 1, tzinfo=UTC)
    last_month = (this_month - timedelta(days=1)).replace(day=1)
    names = [f"payer-{number}" for number in range(customer_count)]
    ids = ensure_customers(organization=organization, external_ids=set(names))
    version = find_current_version(plan=plan)
    subscriptions = Subscription.objects.bulk_create(
        [
            Subscription(
                organization=organization, customer_id=ids[name], starts_at=last_month, anchor_day=1, zone="UTC"
            )
            for name in names
        ],
        batch_size=1_000,
    )
    SubscriptionPhase.objects.bulk_create(
        [
            SubscriptionPhase(organization=organization, subscription=one, version=version, starts_at=last_month)
            for one in subscriptions
        ],
        batch_size=1_000,
    )
    books = Books(tenant)
    _use(books, names, last_month, this_month, EVENTS_PER_METRIC, books.used)
    _use(books, names, this_month, now, SPEND_METRIC_EVENTS, defaultdict(int))
    roll_up_organization(organization_id=organization.pk, now=now)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
    return books


def _use(
    books: Books,
    names: list[str],
    start: datetime,
    end: datetime,
    events_per_metric: int,
    used: dict[tuple[str, str], int],
) -> None:
    """Send events of every customer and metric, evenly over a span, through the ordinary service."""
    generator = random.Random(start.isoformat())
    events: list[IncomingEvent] = []
    span = (end - start) / events_per_metric
    for number in range(events_per_metric):
        for name in names:
            for metric in METRICS:
                value = generator.randrange(1, 500)
                used[name, metric] += value
                at = start + span * number + span * generator.random()
                events.append(_event(f"{start:%m}-{number}-{name}-{metric}", name, metric, value, at))
                if len(events) == BATCH_EVENTS:
                    _ingest(books, events)
                    events = []
    if events:
        _ingest(books, events)


def _event(key: str, customer: str, metric: str, value: int, at: datetime) -> IncomingEvent:
    return IncomingEvent(idempotency_key=key, customer=customer, metric=metric, value=value, timestamp=at.isoformat())


def _ingest(books: Books, events: list[IncomingEvent]) -> None:
    result = ingest_events(organization=books.tenant.organization, events=events, now=datetime.now(UTC))
    if result.stored != len(events):
        raise LoadFailed(f"{result.rejected} of {len(events)} events were refused: {result.errors[:1]}")


def _run(tenant: Tenant) -> tuple[float, float, float]:
    """Run the command; return its seconds, the highest memory of a worker, and by how much that grew since a fifth."""
    command = [sys.executable, str(MANAGE), "run_invoices", "--organization", str(tenant.organization.pk)]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--workers", str(WORKERS)], stdout=subprocess.DEVNULL)
    samples: list[tuple[float, float]] = []
    while process.poll() is None:
        samples.append((time.monotonic() - started, _largest_child_mib(process.pid)))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode:
        raise LoadFailed(f"The invoice run ended with {process.returncode}.")
    early = [size for at, size in samples if at <= seconds * 0.3]
    peak = max((size for _, size in samples), default=0.0)
    return seconds, peak, peak - max(early, default=peak)


def _largest_child_mib(pid: int) -> float:
    sizes = [0.0]
    try:
        for child in psutil.Process(pid).children(recursive=True):
            sizes.append(child.memory_full_info().pss / 2**20)
    except psutil.Error:
        pass
    return max(sizes)


def _check(books: Books, customer_count: int) -> None:
    rows = Invoice.objects.for_organization(books.tenant.organization).filter(state=InvoiceState.FINALISED)
    invoices = list(rows.select_related("customer").order_by("number"))
    numbers = [invoice.number for invoice in invoices]
    if numbers != [f"INV-{serial:06}" for serial in range(1, customer_count + 1)]:
        raise LoadFailed(f"{len(numbers)} invoices, from {numbers[:1]} to {numbers[-1:]}.")
    wrong = [
        invoice for invoice in invoices if invoice.total_minor != books.expected_minor(invoice.customer.external_id)
    ]
    if wrong or len({invoice.customer_id for invoice in invoices}) != customer_count:
        raise LoadFailed(f"{len(wrong)} invoices are wrong, or a customer has two.")
    lines = InvoiceLine.objects.for_organization(books.tenant.organization)
    totals = lines.aggregate(count=Count("id"), amount=Sum("amount_minor"))
    if totals != {
        "count": customer_count * (len(METRICS) + 1),
        "amount": sum(invoice.total_minor for invoice in invoices),
    }:
        raise LoadFailed(f"The lines do not add up: {totals}")


def _ask_spend(installation: Installation, books: Books, count: int) -> Iterator[float]:
    """Yield how long each request took (ms), each of another customer."""
    rows = Subscription.objects.for_organization(books.tenant.organization).order_by("pk")
    ids = list(rows.values_list("pk", flat=True))
    client = Connection(installation.port, books.tenant.api_key)
    for place, subscription_id in enumerate(random.Random(0).sample(ids, min(count + 20, len(ids)))):
        started = time.perf_counter()
        status, body = client.get(f"/v1/subscriptions/{subscription_id}/spend")
        took = time.perf_counter() - started
        if status != 200:
            raise LoadFailed(f"status {status}: {body[:500].decode(errors='replace')}")
        if place >= 20:  # the first ones fill caches
            yield took * 1000
    client.close()
