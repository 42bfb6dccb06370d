"""The organizations that the parts meter: made by the ordinary services, emptied between parts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.db import connection
from django.utils import timezone

from accounts.models import Organization, Scope, User
from accounts.services import create_organization, ensure_customers, issue_api_key
from benchmarks.workload import CUSTOMERS, EVENT_TYPE, METRIC
from common.redis import redis_client
from metering.catalogs import MetricDefinition
from metering.feeds import list_feed_ids
from metering.models import Aggregation, BatchState, IngestBatch, Metric
from metering.services.metrics import create_metric

ACTOR = "benchmark"
HOT_TABLES = (
    "metering_event",
    "metering_ingestbatch",
    "metering_series",
    "metering_rollup_minute",
    "metering_rollup_hour",
    "metering_rollup_day",
    "metering_member",
    "metering_member_set",
    "metering_member_month",
)
LOOK_SECONDS = 0.02

COMPUTE = MetricDefinition(
    code=METRIC,
    aggregation=Aggregation.SUM,
    unit="second",
    event_type=EVENT_TYPE,
    dimensions=(
        {"key": "provider", "values": None, "strict": False},
        {"key": "region", "values": None, "strict": False},
    ),
)


@dataclass(frozen=True, slots=True)
class Tenant:
    organization: Organization
    api_key: str
    metric: Metric
    feed_id: int
    customer_ids: dict[str, int]


def create_tenant(name: str, definition: MetricDefinition = COMPUTE) -> Tenant:
    """Create an organization with one metric, its customers, and a key that may do everything."""
    owner, _ = User.objects.get_or_create(email="benchmark@example.test")
    organization = create_organization(name=name, owner=owner, actor=ACTOR)
    metric = create_metric(organization=organization, definition=definition, actor=ACTOR)
    key = issue_api_key(organization=organization, actor=ACTOR, name=name, scopes=[Scope.ADMIN])
    return Tenant(
        organization=organization,
        api_key=key.text,
        metric=metric,
        feed_id=list_feed_ids(metric)[0],
        customer_ids=ensure_customers(organization=organization, external_ids=set(CUSTOMERS)),
    )


def empty_hot_tables() -> None:
    """Forget all events and what was made of them, also what waits in Redis; write everything to disk."""
    redis_client().flushdb()
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(HOT_TABLES)}")
        cursor.execute("CHECKPOINT")


def count_pending_events(tenant: Tenant) -> int:
    pending = IngestBatch.objects.for_organization(tenant.organization).filter(state=BatchState.PENDING)
    return sum(pending.values_list("event_count", flat=True))


def await_rollup(tenant: Tenant, *, patience_seconds: float = 300) -> float:
    """Return how long it took until no batch was pending."""
    started = time.monotonic()
    pending = IngestBatch.objects.for_organization(tenant.organization).filter(state=BatchState.PENDING)
    while pending.exists():
        if time.monotonic() - started > patience_seconds:
            raise TimeoutError(f"After {patience_seconds:.0f} s there are still pending batches.")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - started


def today() -> str:
    return timezone.now().date().isoformat()
