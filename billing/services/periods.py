"""Writes of billing periods: which of them there are, and which have ended.

Stored periods are those of `billing.domain.periods`, written down: every one that has begun has a row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from accounts.models import Organization
from billing.domain.periods import list_periods
from billing.models import BillingPeriod, BillingSettings, PeriodState, Subscription
from common.models import TenantQuerySet

# So many subscriptions at once are given the rows that they lack.
CHUNK = 1_000

# Subscriptions that have begun and whose last period, if they have one, is over without being the last of all. One
# row per such subscription, with where to go on; uses billing_period_once.
_WITHOUT_CURRENT = """
SELECT subscription.id, latest.ends_at
FROM billing_subscription AS subscription
LEFT JOIN LATERAL (
    SELECT ends_at
    FROM billing_billingperiod
    WHERE organization_id = subscription.organization_id AND subscription_id = subscription.id
    ORDER BY starts_at DESC
    LIMIT 1
) AS latest ON TRUE
WHERE subscription.organization_id = %(organization)s
  AND subscription.id > %(after)s
  AND subscription.starts_at <= %(now)s
  AND (subscription.ends_at IS NULL OR subscription.ends_at > subscription.starts_at)
  AND (
      latest.ends_at IS NULL
      OR (latest.ends_at <= %(now)s AND (subscription.ends_at IS NULL OR subscription.ends_at > latest.ends_at))
  )
ORDER BY subscription.id
LIMIT %(limit)s
"""


@transaction.atomic
def open_periods(*, organization: Organization, now: datetime) -> int:
    """Write down the periods that have begun by now and are not written down yet; return how many. Idempotent."""
    opened, after = 0, 0
    while lacking := _list_lacking(organization, after, now):
        # Locked: who ends a subscription meanwhile would not find the period that it is to cut.
        locked = Subscription.objects.for_organization(organization).filter(pk__in=[pk for pk, _ in lacking])
        rows = {row.pk: row for row in locked.order_by("pk").select_for_update(no_key=True)}
        periods = [
            BillingPeriod(
                organization=organization,
                subscription=rows[pk],
                starts_at=period.start,
                ends_at=period.end,
                is_trial=period.is_trial,
            )
            for pk, known_until in lacking
            for period in list_periods(rows[pk].cycle, until=now + now.resolution)
            if known_until is None or period.start >= known_until
        ]
        # Whoever else does the same at this moment writes the same.
        BillingPeriod.objects.bulk_create(periods, ignore_conflicts=True, batch_size=2_000)
        opened += len(periods)
        after = lacking[-1][0]
    return opened


def _list_lacking(organization: Organization, after: int, now: datetime) -> list[tuple[int, datetime | None]]:
    names: dict[str, Any] = {"organization": organization.pk, "after": after, "now": now, "limit": CHUNK}
    with connection.cursor() as cursor:
        cursor.execute(_WITHOUT_CURRENT, names)
        return cursor.fetchall()


def close_periods(*, organization: Organization, settings: BillingSettings, now: datetime) -> int:
    """Let the grace of periods that have ended begin; return of how many. Idempotent."""
    ended = BillingPeriod.objects.for_organization(organization).filter(state=PeriodState.OPEN, ends_at__lte=now)
    return ended.update(state=PeriodState.GRACE, grace_ends_at=F("ends_at") + settings.grace)


@transaction.atomic
def end_open_periods(*, subscription: Subscription, ends_at: datetime) -> None:
    """Cut the period that goes on where its subscription ends. Inside the caller's transaction, under its row lock.

    A run may have seen its end already, by a clock that is ahead: what is not billed yet is cut all the same.
    """
    periods: TenantQuerySet = BillingPeriod.objects.for_organization(subscription.organization_id)
    going_on = periods.filter(subscription=subscription).exclude(state=PeriodState.FINALISED)
    going_on.filter(starts_at__gte=ends_at).delete()
    going_on.filter(ends_at__gt=ends_at).update(ends_at=ends_at)
