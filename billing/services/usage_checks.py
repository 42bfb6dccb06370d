"""The daily comparison of what was used, kept, invoiced and reported: one row per billed period and metric.

Changes nothing of what it compares. What differs is told once (`usage.mismatch`), counted, and stays a row until a
later comparison agrees. What came too late to be billed at all is told as `usage.unbilled`, again whenever it changes,
and its row stays for good. Periods that are adjusted no more have no other rows, and those that are waived none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import structlog
from django.db import transaction
from django.db.models import Q

from accounts.models import Organization
from billing.domain.notices import NoticeType
from billing.models import BillingPeriod, PeriodState, UsageCheck
from billing.queries.usage_checks import Comparison, adjusted_from, compare_periods, list_checked_periods
from billing.services.notices import NewNotice, write_notices
from common.moments import rfc3339
from common.numbers import exact_text
from common.telemetry import USAGE_MISMATCHES
from metering.domain import EXACT
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
    """Compare the periods that were billed, from an id on, until the time is `until`; write down what is found.

    Chunk by chunk, each in a snapshot of its own. Idempotent. Not inside a transaction. Raises metering's `CutoffBusy`,
    after which the chunks before stand.
    """
    if from_period_id == 0:
        _forget_unchecked(organization)
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
        _forget_settled(organization, periods, compared, now)
        if len(periods) < CHUNK:
            run.periods += len(periods)
            return run
        run.periods += len(periods)
        start = periods[-1].pk + 1


def _forget_unchecked(organization: Organization) -> None:
    """Delete the rows of periods that are waived or billed anew."""
    gone = BillingPeriod.objects.for_organization(organization).filter(
        ~Q(state=PeriodState.FINALISED) | Q(is_waived=True)
    )
    UsageCheck.objects.for_organization(organization).filter(period__in=gone.values("pk")).delete()


def _forget_settled(
    organization: Organization, periods: Sequence[BillingPeriod], compared: Sequence[Comparison], now: datetime
) -> None:
    """Delete the rows of periods that are adjusted no more, but those of what differed when that could be told last."""
    since = adjusted_from(organization=organization, now=now)
    settled = [period.pk for period in periods if period.ends_at < since]
    agreeing = {(each.period.pk, each.metric.pk) for each in compared if each.agrees}
    rows = UsageCheck.objects.for_organization(organization).filter(period__in=settled)
    gone = [row.pk for row in rows if row.agrees or (row.period_id, row.metric_id) in agreeing]
    rows.filter(pk__in=gone).delete()


def _record(organization: Organization, compared: Sequence[Comparison], now: datetime, run: CheckRun) -> None:
    periods = {each.period.pk for each in compared}
    known = UsageCheck.objects.for_organization(organization).filter(period__in=periods, agrees=False)
    earlier = {(row.period_id, row.metric_id): row for row in known}
    since = {key: row.differs_since for key, row in earlier.items()}
    begun = [each for each in compared if not each.agrees and (each.period.pk, each.metric.pk) not in earlier]
    kept = [each for each in compared if each.is_adjusted or not each.agrees]
    rows = [_row(each, now, since.get((each.period.pk, each.metric.pk))) for each in kept]
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
        write_notices([_notice(each, now) for each in (*begun, *_list_changed(compared, earlier))])
    for each in begun:
        _log(each, organization)
    run.compared += len(compared)
    run.differing += sum(not each.agrees for each in compared)
    run.new_differing += len(begun)


def _log(compared: Comparison, organization: Organization) -> None:
    said = {"organization": organization.pk, "period": compared.period.pk, "metric": compared.metric.code}
    said |= {name: _text(quantity) for name, quantity in _quantities(compared).items()}
    if compared.is_adjusted:
        USAGE_MISMATCHES.inc()
        logger.error("billed usage differs", **said)
    else:
        logger.warning("usage came too late for any invoice", **said)


def _list_changed(compared: Sequence[Comparison], earlier: Mapping[tuple[int, int], UsageCheck]) -> list[Comparison]:
    """Return what came too late and is more, or less, than when it was told last, or was told otherwise till now.

    The events of a period are compared while it is adjusted, and no more after that.
    """
    return [
        each
        for each in compared
        if not (each.is_adjusted or each.agrees)
        and (row := earlier.get((each.period.pk, each.metric.pk))) is not None
        and (row.rollups_quantity != each.rollups_quantity or row.events_quantity is not None)
    ]


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
    period, type = compared.period, NoticeType.USAGE_MISMATCH
    quantities = _quantities(compared)
    if compared.rollups_quantity is not None and compared.invoiced_quantity is not None and not compared.is_adjusted:
        type = NoticeType.USAGE_UNBILLED
        quantities = {
            "quantity": EXACT.subtract(compared.rollups_quantity, compared.invoiced_quantity),
            "invoiced_quantity": compared.invoiced_quantity,
        }
    payload = {
        "customer": period.subscription.customer.external_id,
        "subscription": str(period.subscription_id),
        "metric": compared.metric.code,
        "period": {"start": rfc3339(period.starts_at), "end": rfc3339(period.ends_at)},
        **{name: _text(quantity) for name, quantity in quantities.items()},
        "at": rfc3339(now),
    }
    return NewNotice(organization_id=period.organization_id, type=type, payload=payload, at=now)


def _text(quantity: Decimal | None) -> str | None:
    return None if quantity is None else exact_text(quantity)
