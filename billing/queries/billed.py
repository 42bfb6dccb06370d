"""Until when usage is billed: what those ask who would let usage go (`settings.BILLED_UNTIL`)."""

from __future__ import annotations

from datetime import datetime

from django.db import connection

from accounts.models import Organization
from billing.queries.settings import get_settings

# The earliest of: what no final invoice charges yet, be it in a stored period or after the last one; and what a final
# one charges but may still be adjusted. One row, null where there is nothing of either. Uses billing_period_by_end,
# billing_period_due and billing_period_once.
_BILLED_UNTIL = """
SELECT LEAST(
    (
        SELECT min(starts_at)
        FROM billing_billingperiod
        WHERE organization_id = %(organization)s AND state <> 'finalised'
    ),
    (
        SELECT min(starts_at)
        FROM billing_billingperiod
        WHERE organization_id = %(organization)s
          AND ends_at >= clock_timestamp() - make_interval(days => %(adjustment_days)s)
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
          AND (subscription.ends_at IS NULL OR subscription.ends_at > subscription.starts_at)
          AND (latest.ends_at IS NULL OR subscription.ends_at IS NULL OR subscription.ends_at > latest.ends_at)
    )
)
"""


def find_billed_until(organization: Organization) -> datetime | None:
    """Return the time before which nothing is still to be billed or adjusted; None where nobody is billed.

    Subscriptions that ended before they began have no period. Two queries.
    """
    names = {"organization": organization.pk, "adjustment_days": get_settings(organization).adjustment_days}
    with connection.cursor() as cursor:
        cursor.execute(_BILLED_UNTIL, names)
        row: tuple[datetime | None] = cursor.fetchone()
        return row[0]
