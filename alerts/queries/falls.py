"""What voids did to a value between two evaluations, told from raw events: by then usage has come on top of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import structlog

from accounts.models import Customer
from alerts.domain import Fall
from alerts.models import Threshold
from metering import queries
from metering.domain import Span
from metering.models import Event, EventVoid
from metering.queries.reading import RangeNotKept

logger = structlog.get_logger(__name__)

# Each takes two counts of raw events: a void among more events, or a flood of voids, is judged by what is left.
MAX_EVENTS = 50_000
MAX_VOIDS = 16
INSTANT = timedelta(microseconds=1)


def list_falls(
    *, threshold: Threshold, customer: Customer, period: Span, voided: Collection[datetime], since: datetime
) -> list[Fall]:
    """Return the value before and after each void since then of an event that happened at one of these times.

    Empty where there are too many events to count, or they are no longer kept.
    """
    try:
        return list(_read_falls(threshold, customer, period, voided, since))
    except RangeNotKept:
        return []


def _read_falls(
    threshold: Threshold, customer: Customer, period: Span, voided: Collection[datetime], since: datetime
) -> Iterator[Fall]:
    def usage(as_of: datetime | None = None) -> queries.Usage:
        return queries.get_usage(
            organization=threshold.organization,
            metric=threshold.metric,
            start=period.start,
            end=period.end,
            customer_id=customer.pk,
            filters=threshold.filters,
            as_of=as_of,
        )

    # Uses event_by_customer_time.
    events = Event.objects.for_organization(threshold.organization_id).filter(
        customer_id=customer.pk, occurred_at__in=[at for at in voided if period.start <= at < period.end]
    )
    voids = EventVoid.objects.for_organization(threshold.organization_id).filter(
        idempotency_key__in=events.values("idempotency_key"), voided_at__gt=since
    )
    instants = list(voids.order_by("-voided_at").values_list("voided_at", flat=True).distinct()[:MAX_VOIDS])
    if not instants:
        return
    if usage().count > MAX_EVENTS:
        logger.warning("voids_not_traced", threshold=threshold.pk, customer=customer.pk)
        return
    for voided_at in instants:
        yield Fall(before=usage(voided_at - INSTANT).value, after=usage(voided_at).value)
