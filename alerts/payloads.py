"""The one shape of an alert on every wire: the list, the stream, webhooks."""

from collections.abc import Mapping
from typing import Any

from alerts.models import Crossing
from common.moments import rfc3339
from common.numbers import exact_text


def crossing_json(crossing: Crossing) -> dict[str, Any]:
    """Return the alert as clients get it. Reads `customer` and `metric`, so select them along."""
    return {
        "offset": str(crossing.offset),
        "customer": crossing.customer.external_id if crossing.customer else None,
        "metric": crossing.metric.code,
        "threshold_code": crossing.threshold_code,
        "threshold_value": exact_text(crossing.threshold_value),
        "value_at_cross": exact_text(crossing.value_at_cross),
        "period": {"start": rfc3339(crossing.period_start), "end": rfc3339(crossing.period_end)},
        "triggered_at": rfc3339(crossing.triggered_at),
    }


def in_order(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a webhook's message in the order in which it is sent and shown, which the database does not keep."""
    return {name: payload[name] for name in ("type", "timestamp", "data")}
