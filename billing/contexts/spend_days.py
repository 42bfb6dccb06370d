"""The chart of what each day added to the cost of a subscription's current period."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing.domain.currencies import EXPONENTS, money_text
from billing.models import Subscription
from billing.queries.spend_days import get_spend_days
from common.errors import ApplicationError
from metering.charts import Bucket, Chart, ChartLine, stacked_bars
from metering.contexts.words import bucket_tick, bucket_title
from metering.domain import Granularity, local_date


def find_cost_chart(subscription: Subscription, now: datetime) -> Chart | None:
    """Return the chart; None where no day cost anything, none has come, or usage is no longer kept by the day."""
    try:
        found = get_spend_days(subscription=subscription, now=now)
    except ApplicationError:
        return None
    if now < found.period.start or not any(day.amount_minor for day in found.days):
        return None
    zone, exponent = ZoneInfo(subscription.zone), EXPONENTS[found.currency]
    today = local_date(now, zone)
    return stacked_bars(
        title=f"Cost by day, {found.currency}",
        summary=f"{len(found.days)} days, {money_text(found.total_minor, found.currency)} in all",
        buckets=[
            Bucket(
                bucket_tick(day.start, Granularity.DAY, zone),
                bucket_title(day.start, Granularity.DAY, zone),
                "so far" if day.day == today else "in part" if day.start < found.period.start else "",
            )
            for day in found.days
        ],
        lines=[ChartLine("Cost", "1", [Decimal(day.amount_minor).scaleb(-exponent) for day in found.days])],
    )
