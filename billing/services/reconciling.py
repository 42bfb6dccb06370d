"""Comparing the ledger with what Stripe counts, per customer, metric and day.

Differences are rows and are never corrected here: the outbox says what is lacking, and what it cannot explain is for
people to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

import structlog
from django.db import transaction

from accounts.models import Organization
from billing.clients.failures import CallFailed
from billing.clients.meters import MeterSink
from billing.domain.notices import NoticeType
from billing.domain.reporting import ZERO, Answer, DayTotals, comparable_days, recent_periods, total_by_day
from billing.models import StripeDrift, StripeMeter
from billing.queries.reporting import Target, list_meters, list_restless_days, list_targets, read_ledger
from billing.services.notices import write_notice
from billing.services.stripe_pace import MAX_THROTTLED, Pace, TokenBucket, pause_seconds
from common.errors import ApplicationError
from common.numbers import exact_text
from common.telemetry import STRIPE_DRIFTS
from metering.domain import EXACT, Span

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Comparison:
    """How many days were compared, and in how many the two differ. `resume_from`: as of a `PlanRun`."""

    days: int = 0
    drifts: int = 0
    # Customers and meters that could not be compared.
    failures: int = 0
    resume_from: int | None = None


def reconcile_usage(
    *,
    organization: Organization,
    sink: MeterSink,
    pace: Pace | None = None,
    from_customer_id: int = 0,
    until: datetime | None = None,
) -> Comparison:
    """Compare the days of the last weeks, but those with reports on their way, and write down where they differ.

    Goes by customer, from `from_customer_id` on, until the time is `until`.
    """
    pace = pace or Pace()
    bucket = TokenBucket(pace=pace)
    comparison = Comparison()
    meters = list_meters(organization=organization)
    targets = list_targets(organization=organization, from_customer_id=from_customer_id)
    for customer_id, group in groupby(targets, key=lambda target: target.subscription.customer_id):
        if until is not None and pace.now() >= until:
            comparison.resume_from = customer_id
            break
        of_customer = list(group)
        for meter in meters:
            try:
                totals = list(_compare(of_customer, meter, sink, pace, bucket))
            except (ApplicationError, CallFailed) as error:
                comparison.failures += 1
                logger.warning("usage could not be compared", customer=customer_id, error=str(error))
                continue
            comparison.days += len(totals)
            comparison.drifts += _record(of_customer[0], meter, totals, pace.now)
    return comparison


def _compare(
    targets: list[Target], meter: StripeMeter, sink: MeterSink, pace: Pace, bucket: TokenBucket
) -> Iterator[DayTotals]:
    """Yield the days that can be compared, of all subscriptions of one customer. One call."""
    now = pace.now()
    days = comparable_days(now)
    totals = total_by_day(
        (
            entry
            for target in targets
            for period in recent_periods(target.subscription.cycle, now=now)
            for entry in read_ledger(target, meter.metric, period)
        ),
        days,
    )
    counted = _count_there(targets[0], meter, days, sink, pace, bucket)
    restless = list_restless_days(targets[0], meter, now=now)
    for day in sorted((totals.keys() | counted.keys()) - restless):
        yield DayTotals(day, totals.get(day, ZERO), counted.get(day, ZERO))


def _count_there(
    target: Target, meter: StripeMeter, days: Span, sink: MeterSink, pace: Pace, bucket: TokenBucket
) -> dict[datetime, Decimal]:
    """Ask what Stripe counts of each day, some times more where it asks for patience. Raises `CallFailed`."""
    throttled = 0
    while True:
        bucket.take()
        try:
            return sink.daily_totals(
                event_name=meter.event_name, customer_id=target.stripe_customer_id, start=days.start, end=days.end
            )
        except CallFailed as failure:
            throttled += 1
            if failure.answer != Answer.THROTTLED or throttled == MAX_THROTTLED:
                raise
        pace.wait(pause_seconds(throttled, pace))


def _record(target: Target, meter: StripeMeter, totals: list[DayTotals], now: Callable[[], datetime]) -> int:
    """Write down the days that differ, settle those that agree again, and return how many differ."""
    subscription, at = target.subscription, now()
    rows = StripeDrift.objects.for_organization(subscription.organization_id).filter(
        customer=subscription.customer_id, metric=meter.metric_id
    )
    known = {row.day: row for row in rows}
    drifting = 0
    for total in totals:
        row = known.get(total.day)
        if not total.is_drift:
            if row is not None and row.resolved_at is None:
                rows.filter(pk=row.pk).update(resolved_at=at, **_numbers(total, at))
            continue
        drifting += 1
        if row is not None and row.resolved_at is None:
            rows.filter(pk=row.pk).update(**_numbers(total, at))
            continue
        with transaction.atomic():
            _write_drift(target, meter, total, at)
        STRIPE_DRIFTS.inc()
        logger.error(
            "Stripe counts something else than the ledger",
            organization=subscription.organization_id,
            customer=subscription.customer_id,
            metric=meter.metric.code,
            day=f"{total.day:%Y-%m-%d}",
            difference=str(EXACT.subtract(total.counted, total.ledger)),
        )
    return drifting


def _write_drift(target: Target, meter: StripeMeter, total: DayTotals, at: datetime) -> None:
    """Write down a day that differs, for the first time or again, and have it told: once for each time."""
    subscription = target.subscription
    StripeDrift.objects.update_or_create(
        organization=subscription.organization,
        customer=subscription.customer,
        metric=meter.metric,
        day=total.day,
        defaults={"resolved_at": None, **_numbers(total, at)},
        create_defaults={"found_at": at, **_numbers(total, at)},
    )
    write_notice(
        organization=subscription.organization_id,
        type=NoticeType.STRIPE_DRIFT,
        payload={
            "kind": "usage_differs",
            "customer": subscription.customer.external_id,
            "metric": meter.metric.code,
            "day": f"{total.day:%Y-%m-%d}",
            "ledger_quantity": exact_text(total.ledger),
            "stripe_quantity": exact_text(total.counted),
        },
        now=at,
    )


def _numbers(total: DayTotals, at: datetime) -> dict[str, Any]:
    return {"ledger_quantity": total.ledger, "stripe_quantity": total.counted, "checked_at": at}
