"""The quota that applies to a customer and what the customer holds: the first statement of every check and reservation.

Raw SQL where the ORM could say the same in two queries, because compiling those took a quarter of a check.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from alerts.domain import QuotaMode

# Always one row; without a quota its columns are null. A null customer has none of its own and holds nothing.
# Uses index: reservation_open, quota_once.
_FIND = """
WITH held AS (
    SELECT COALESCE(sum(amount), 0) AS total
    FROM alerts_reservation
    WHERE organization_id = %(organization)s
      AND metric_id = %(metric)s
      AND customer_id = %(customer)s
      AND state = 'open'
      AND expires_at > %(now)s
), applying AS (
    SELECT mode, "limit", grace, warning_percents
    FROM alerts_quota
    WHERE organization_id = %(organization)s
      AND metric_id = %(metric)s
      AND (customer_id = %(customer)s OR customer_id IS NULL)
    ORDER BY customer_id NULLS LAST
    LIMIT 1
)
SELECT held.total, applying.mode, applying."limit", applying.grace, applying.warning_percents
FROM held
LEFT JOIN applying ON TRUE
"""


class QuotaTerms(NamedTuple):
    """What a quota says; the columns of `Quota` that a verdict needs."""

    mode: QuotaMode
    limit: Decimal | None
    grace: Decimal
    warning_percents: list[int]


def find_quota_terms(
    *, organization_id: int, metric_id: int, customer_id: int | None, now: datetime
) -> tuple[Decimal, QuotaTerms | None]:
    """Return the sum of the open reservations, and the terms: the customer's own before the metric's."""
    names = {"organization": organization_id, "metric": metric_id, "customer": customer_id, "now": now}
    with connection.cursor() as cursor:
        cursor.execute(_FIND, names)
        held, mode, limit, grace, warning_percents = cursor.fetchone()
    return held, None if mode is None else QuotaTerms(QuotaMode(mode), limit, grace, warning_percents)
