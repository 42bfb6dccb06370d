"""Which thresholds a customer crossed: asked by every realtime and range read.

Raw SQL where the ORM could say the same, because compiling the query took longer than all else of it.
"""

from __future__ import annotations

from django.db import connection

from metering.domain import Span
from metering.models import Metric

# One row per code. A period counts where the span holds all of it. Uses crossing_by_period.
_LIST = """
SELECT DISTINCT threshold_code
FROM alerts_crossing
WHERE organization_id = %s AND metric_id = %s AND customer_id = %s
  AND period_start >= %s AND period_start < %s AND period_end <= %s
ORDER BY 1
"""


def list_alert_flags(*, metric: Metric, customer_id: int, span: Span) -> list[str]:
    """Return the codes of the thresholds that the customer crossed in the metric's periods within the span."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST, [metric.organization_id, metric.pk, customer_id, span.start, span.end, span.end])
        return [code for (code,) in cursor.fetchall()]
