"""Words for definitions: what an aggregation, a period, a bucket is called on a page."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from metering.domain import Granularity
from metering.models import ADDITIVE, Aggregation, Metric, PeriodType

AGGREGATION_LABELS: dict[str, str] = {
    Aggregation.COUNT: "count of events",
    Aggregation.SUM: "sum",
    Aggregation.MAX: "maximum",
    Aggregation.MIN: "minimum",
    Aggregation.LATEST: "latest value",
    Aggregation.COUNT_UNIQUE: "distinct count",
}

PER_CUSTOMER = frozenset({Aggregation.MAX, Aggregation.MIN, Aggregation.LATEST})

NO_VALUE = "(none)"


def metric_name(metric: Metric) -> str:
    return metric.name or metric.code


def aggregation_label(metric: Metric) -> str:
    """Say how the metric aggregates what: "sum of distance"."""
    label = AGGREGATION_LABELS[metric.aggregation]
    if not metric.value_property:
        return label
    if metric.aggregation == Aggregation.COUNT:
        return f"{label} with {metric.value_property}"
    return f"{label} of {metric.value_property}"


def period_label(metric: Metric) -> str:
    match PeriodType(metric.period_type):
        case PeriodType.CALENDAR if metric.billing_cycle_day == 1:
            return "calendar month"
        case PeriodType.CALENDAR:
            return f"month, from day {metric.billing_cycle_day}"
        case PeriodType.FIXED:
            return f"{metric.period_days} days, counted from 1970-01-01"
        case PeriodType.DAY:
            return "day"
        case PeriodType.WEEK:
            return "week, from Monday"


def over_customers_note(metric: Metric, *, has_customer: bool) -> str:
    """Say how the customers' values make one, where that is not plain addition."""
    if has_customer or metric.aggregation in ADDITIVE:
        return ""
    if metric.aggregation in PER_CUSTOMER:
        label = AGGREGATION_LABELS[metric.aggregation]
        return f"Over several customers: each customer's own {label}, added up. Choose a customer to see its own."
    return "Over several customers, days or groups, whatever occurs more than once counts once."


def bucket_tick(start: datetime, granularity: Granularity, zone: ZoneInfo) -> str:
    """Name a bucket briefly, for the axis."""
    local = start.astimezone(zone)
    match granularity:
        case Granularity.MINUTE | Granularity.HOUR:
            return f"{local:%-d %b}" if (local.hour, local.minute) == (0, 0) else f"{local:%H:%M}"
        case Granularity.DAY | Granularity.WEEK:
            return f"{local:%-d %b}"
        case Granularity.MONTH:
            return f"{local:%b %Y}" if local.month == 1 else f"{local:%b}"


def bucket_title(start: datetime, granularity: Granularity, zone: ZoneInfo) -> str:
    """Name a bucket in full, for the table and the tip."""
    local = start.astimezone(zone)
    match granularity:
        case Granularity.MINUTE | Granularity.HOUR:
            return f"{local:%-d %b %Y, %H:%M}"
        case Granularity.DAY:
            return f"{local:%a %-d %b %Y}"
        case Granularity.WEEK:
            return f"week of {local:%-d %b %Y}"
        case Granularity.MONTH:
            return f"{local:%B %Y}"
