"""Which billing period of a subscription its next invoice is about. What that would say, `billing.queries.invoicing`
computes."""

from __future__ import annotations

from datetime import datetime

from billing.models import BillingPeriod, PeriodState, Subscription
from billing.queries.subscriptions import nearest_period
from common.errors import Conflict


class PeriodIsFinalised(Conflict):
    code = "already_finalised"


def get_period_to_preview(*, subscription: Subscription, now: datetime) -> BillingPeriod:
    """Return the row of the current period; of a subscription that has ended the last, of one to come the first.

    One that nobody has written down yet is returned unsaved. Raises `PeriodIsFinalised` where its invoice is final, and
    `NeverCharged` where there is no period.
    """
    period = nearest_period(subscription, now)
    row: BillingPeriod | None = (
        BillingPeriod.objects.for_organization(subscription.organization_id)
        .filter(subscription=subscription, starts_at=period.start)
        .first()
    )
    if row is None:
        row = BillingPeriod(
            organization_id=subscription.organization_id,
            starts_at=period.start,
            ends_at=period.end,
            is_trial=period.is_trial,
        )
    row.subscription = subscription
    if row.state == PeriodState.FINALISED:
        raise PeriodIsFinalised("The subscription's last billing period is invoiced: see its invoices.")
    return row
