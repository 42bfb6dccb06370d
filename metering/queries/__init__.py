"""Reads of metering; `usage` is the only place where a usage number is computed."""

from metering.queries.counted_events import CountedEvent, iterate_counted_events
from metering.queries.events import EventRow, find_event, list_events, list_inbox
from metering.queries.metrics import get_known_metric, get_metric, list_active_metrics
from metering.queries.periods import current_period, period_of_month, previous_period, usage_zone
from metering.queries.usage import (
    BreakdownRow,
    Point,
    SeriesLine,
    Usage,
    UsageSeries,
    get_series,
    get_usage,
    list_breakdown,
    list_customer_groups,
    list_customer_values,
    list_groups,
    list_running_groups,
    list_values,
)

__all__ = [
    "BreakdownRow",
    "CountedEvent",
    "EventRow",
    "Point",
    "SeriesLine",
    "Usage",
    "UsageSeries",
    "current_period",
    "find_event",
    "get_known_metric",
    "get_metric",
    "get_series",
    "get_usage",
    "iterate_counted_events",
    "list_active_metrics",
    "list_breakdown",
    "list_customer_groups",
    "list_customer_values",
    "list_events",
    "list_groups",
    "list_inbox",
    "list_running_groups",
    "list_values",
    "period_of_month",
    "previous_period",
    "usage_zone",
]
