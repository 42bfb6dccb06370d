"""Writes of billing periods: which of them there are, which have ended, which are given up.

Stored periods are those of `billing.domain.periods`, written down: every one that has begun has a row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from accounts.models import Organization
from accounts.services import record_audit
from billing.domain.periods import list_periods
from billing.models import BillingPeriod, BillingSettings, Invoice, InvoiceState, PeriodState, Subscription
from billing.queries.invoice_runs import get_period
from billing.services.reasons import MAX_REASON_CHARACTERS, check_text
from common.errors import Conflict
from common.models import TenantQuerySet
from common.moments import rfc3339

# So many subscriptions at once are given the rows that they lack.
CHUNK = 1_000


class NotWaivable(Conflict):
    """Only what cannot be invoiced is given up unseen. What can is invoiced, and its invoice voided."""

    code = "not_waivable"


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


@transaction.atomic
def waive_period(
    *, organization: Organization, period_id: int, reason: str, actor: str, now: datetime
) -> BillingPeriod:
    """Charge nothing of a period whose invoice cannot be made, for good: those after it have their turn then, and its
    usage is held back no more. As when its invoice were voided, and not issued anew.

    Raises `NotFound`, and `NotWaivable` for one that has no such problem or is final.
    """
    check_text("reason", reason, MAX_REASON_CHARACTERS)
    found = get_period(organization=organization, period_id=period_id)
    # As runs do: who computes the period at this moment begins anew.
    subscriptions = Subscription.objects.for_organization(organization).filter(pk=found.subscription_id)
    subscriptions.select_for_update(no_key=True).get()
    subscriptions.update(revision=F("revision") + 1)
    rows = BillingPeriod.objects.for_organization(organization).filter(pk=found.pk, state=PeriodState.GRACE)
    waived = {"state": PeriodState.FINALISED, "is_waived": True, "finalised_at": now, "problem": ""}
    if not rows.exclude(problem="").update(**waived):
        raise NotWaivable("Its invoice can be made, or is made; to owe nothing of it, void that.")
    Invoice.objects.for_organization(organization).filter(period=found, state=InvoiceState.DRAFT).delete()
    record_audit(
        organization=organization,
        actor=actor,
        action="billing_period.waived",
        target=f"{found.pk} of {found.subscription.customer.external_id}"[:320],
        details={"start": rfc3339(found.starts_at), "reason": reason, "problem": found.problem},
    )
    found.refresh_from_db()
    return found
