"""The daily comparison of what was used, kept, invoiced and reported: one row per billed period and metric.

Changes nothing of what it compares. What differs is told once (`usage.mismatch`), counted, and stays a row until a
later comparison agrees; rows of periods that are not compared any more are let go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import structlog
from django.db import transaction
from django.db.models import Q

from accounts.models import Organization
from billing.domain.notices import NoticeType
from billing.models import BillingPeriod, PeriodState, UsageCheck
from billing.queries.settings import get_settings
from billing.queries.usage_checks import Comparison, compare_periods, list_checked_periods
from billing.services.notices import NewNotice, write_notices
from common.moments import rfc3339
from common.numbers import exact_text
from common.telemetry import USAGE_MISMATCHES
from metering.services.cutoffs import snapshot_at_cutoff

logger = structlog.get_logger(__name__)

# Compared in one snapshot and held in memory together.
CHUNK = 500


@dataclass(slots=True)
class CheckRun:
    """What one call compared. `resume_from`: the period to go on with, where the time was up."""

    periods: int = 0
    compared: int = 0
    differing: int = 0
    # That agreed before, or were never compared.
    new_differing: int = 0
    resume_from: int | None = None


def check_usage(
    *,
    organization: Organization,
    now: datetime,
    until: datetime | None = None,
    from_period_id: int = 0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> CheckRun:
    """Compare the periods that are still adjusted, from an id on, until the time is `until`; write down what is found.

    Chunk by chunk, each in a snapshot of its own. Idempotent. Not inside a transaction. Raises metering's `CutoffBusy`,
    after which the chunks before stand.
    """
    if from_period_id == 0:
        _forget_unchecked(organization, now)
    run = CheckRun()
    start = from_period_id
    while True:
        periods = list_checked_periods(organization=organization, now=now, from_period_id=start, limit=CHUNK)
        if not periods:
            return run
        if until is not None and clock() >= until:
            run.resume_from = start
            return run
        with snapshot_at_cutoff(organization=organization) as cutoff:
            # Read anew: what was billed is of the same moment as what is compared with it.
            periods = list_checked_periods(organization=organization, now=now, from_period_id=start, limit=CHUNK)
            compared = list(compare_periods(periods, organization=organization, cutoff=cutoff, now=now))
        _record(organization, compared, now, run)
        if len(periods) < CHUNK:
            run.periods += len(periods)
            return run
        run.periods += len(periods)
        start = periods[-1].pk + 1


def _forget_unchecked(organization: Organization, now: datetime) -> None:
    """Delete the rows of periods that are waived, billed anew, or not adjusted any more."""
    since = now - timedelta(days=get_settings(organization).adjustment_days)
    gone = BillingPeriod.objects.for_organization(organization).filter(
        ~Q(state=PeriodState.FINALISED) | Q(is_waived=True) | Q(ends_at__lt=since)
    )
    UsageCheck.objects.for_organization(organization).filter(period__in=gone.values("pk")).delete()


def _record(organization: Organization, compared: Sequence[Comparison], now: datetime, run: CheckRun) -> None:
    periods = {each.period.pk for each in compared}
    known = UsageCheck.objects.for_organization(organization).filter(period__in=periods, agrees=False)
    since = {(period, metric): at for period, metric, at in known.values_list("period", "metric", "differs_since")}
    begun = [each for each in compared if not each.agrees and (each.period.pk, each.metric.pk) not in since]
    rows = [_row(each, now, since.get((each.period.pk, each.metric.pk))) for each in compared]
    with transaction.atomic():
        UsageCheck.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["organization", "period", "metric"],
            update_fields=[
                "events_quantity",
                "rollups_quantity",
                "invoiced_quantity",
                "reported_quantity",
                "agrees",
                "checked_at",
                "differs_since",
            ],
            batch_size=1_000,
        )
        write_notices([_notice(each, now) for each in begun])
    for each in begun:
        USAGE_MISMATCHES.inc()
        logger.error(
            "billed usage differs",
            organization=organization.pk,
            period=each.period.pk,
            metric=each.metric.code,
            **{name: _text(quantity) for name, quantity in _quantities(each).items()},
        )
    run.compared += len(compared)
    run.differing += sum(not each.agrees for each in compared)
    run.new_differing += len(begun)


def _row(compared: Comparison, now: datetime, since: datetime | None) -> UsageCheck:
    return UsageCheck(
        organization_id=compared.period.organization_id,
        period=compared.period,
        metric=compared.metric,
        agrees=compared.agrees,
        checked_at=now,
        differs_since=None if compared.agrees else since or now,
        **_quantities(compared),
    )


def _quantities(compared: Comparison) -> dict[str, Decimal | None]:
    return {
        "events_quantity": compared.events_quantity,
        "rollups_quantity": compared.rollups_quantity,
        "invoiced_quantity": compared.invoiced_quantity,
        "reported_quantity": compared.reported_quantity,
    }


def _notice(compared: Comparison, now: datetime) -> NewNotice:
    period = compared.period
    payload = {
        "customer": period.subscription.customer.external_id,
        "subscription": str(period.subscription_id),
        "metric": compared.metric.code,
        "period": {"start": rfc3339(period.starts_at), "end": rfc3339(period.ends_at)},
        **{name: _text(quantity) for name, quantity in _quantities(compared).items()},
        "at": rfc3339(now),
    }
    return NewNotice(organization_id=period.organization_id, type=NoticeType.USAGE_MISMATCH, payload=payload, at=now)


def _text(quantity: Decimal | None) -> str | None:
    return None if quantity is None else exact_text(quantity)
