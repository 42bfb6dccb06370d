"""Reads of alerts. Usage numbers come from `metering.queries`."""

from alerts.queries.crossings import list_crossings
from alerts.queries.included import find_included_quantity
from alerts.queries.thresholds import get_threshold, list_thresholds

__all__ = [
    "find_included_quantity",
    "get_threshold",
    "list_crossings",
    "list_thresholds",
]
