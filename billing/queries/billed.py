"""Until when usage is billed: what those ask who would let usage go (`settings.BILLED_UNTIL`, `UNBILLED_FROM`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection

from accounts.models import Organization
from billing.queries.settings import get_settings

# What no final invoice charges yet, be it in a stored period or after the last one. A subscription is lost with a
# period that begins in a time already let go and whose invoice could not be made: its later ones wait for that one,
# and keeping more would help none of them. One row, null where there is nothing of either. Uses billing_period_due
# and billing_period_once.
_UNBILLED_FROM = """
WITH lost AS (
    SELECT subscription_id
    FROM billing_billingperiod
    WHERE organization_id = %(organization)s AND state <> 'finalised'
      AND problem <> '' AND starts_at < %(kept_from)s::timestamptz
)
SELECT LEAST(
    (
        SELECT min(starts_at)
        FROM billing_billingperiod
        WHERE organization_id = %(organization)s AND state <> 'finalised'
          AND subscription_id NOT IN (SELECT subscription_id FROM lost)
    ),
    (
        SELECT min(COALESCE(latest.ends_at, subscription.starts_at))
        FROM billing_subscription AS subscription
        LEFT JOIN LATERAL (
            SELECT ends_at
            FROM billing_billingperiod
            WHERE organization_id = subscription.organization_id AND subscription_id = subscription.id
            ORDER BY starts_at DESC
            LIMIT 1
        ) AS latest ON TRUE
        WHERE subscription.organization_id = %(organization)s
          AND subscription.id NOT IN (SELECT subscription_id FROM lost)
          AND (subscription.ends_at IS NULL OR subscription.ends_at > subscription.starts_at)
          AND (latest.ends_at IS NULL OR subscription.ends_at IS NULL OR subscription.ends_at > latest.ends_at)
    )
)
"""

# What a final invoice charges but may still be adjusted. One row, null without any. Uses billing_period_by_end.
_ADJUSTED_FROM = """
SELECT min(starts_at)
FROM billing_billingperiod
WHERE organization_id = %(organization)s
  AND ends_at >= clock_timestamp() - make_interval(days => %(adjustment_days)s)
"""


def find_billed_until(organization: Organization) -> datetime | None:
    """Return the time before which nothing is still to be billed or adjusted; None where nobody is billed.

    Three queries.
    """
    names = {"organization": organization.pk, "adjustment_days": get_settings(organization).adjustment_days}
    adjusted_from = _find_time(_ADJUSTED_FROM, names)
    unbilled_from = find_unbilled_from(organization)
    return min(filter(None, (adjusted_from, unbilled_from)), default=None)


def find_unbilled_from(organization: Organization, kept_from: datetime | None = None) -> datetime | None:
    """Return the time before which everything stands on final invoices; None where nobody is billed.

    `kept_from` is the time before which raw events are gone already: what cannot be invoiced for lack of them does not
    count. Subscriptions that ended before they began have no period. One query.
    """
    return _find_time(_UNBILLED_FROM, {"organization": organization.pk, "kept_from": kept_from})


def _find_time(statement: str, names: dict[str, Any]) -> datetime | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, names)
        row: tuple[datetime | None] = cursor.fetchone()
        return row[0]
